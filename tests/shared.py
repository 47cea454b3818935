"""What all processes of a test run share: a packed project, and ROOT of a device after a push.

The first process that needs one makes it with the commands of a person, in the run's temporary
folder; everybody gets a copy. What is named by its digest is linked, everything else is copied: a
test may change any file of its copy but those, and replaces those (`replace`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

NAMED_BY_DIGEST = ("blobs", "trees", "releases")


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same in all its processes."""
    base = factory.getbasetemp()
    # pytest-xdist gives each process a folder of its own below the run's
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"


class Run:
    """This process's view of the run; the folder is set before the first test."""

    folder: Path


RUN = Run()


def half(folder: Path) -> Path:
    """Where a shared folder is made."""
    return folder.with_suffix(".half")


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder; the first process that comes makes it, the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            shutil.rmtree(half(folder), ignore_errors=True)
            make(half(folder))
            _record(folder).write_text(json.dumps(_linked(half(folder))))
            half(folder).rename(folder)
    return folder


def _record(folder: Path) -> Path:
    return folder.with_suffix(".json")


def _linked(folder: Path) -> dict[str, list[int]]:
    """The files that copies have as links, and what tells that one was written to since."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if set(name.parts) & set(NAMED_BY_DIGEST) and path.is_file() and not path.is_symlink():
            status = path.stat()
            found[str(name)] = [status.st_mtime_ns, status.st_size, status.st_mode]
    return found


def changed(folder: Path) -> list[Path]:
    """The files of shared folders that are not as they were made: a test wrote to a copy's link.

    A test that wrote back what was there is found too: meanwhile the others read its words.
    """
    found: list[Path] = []
    for record in folder.glob("*.json"):
        made = record.with_suffix("")
        if not made.is_dir():
            continue  # another process is making it
        before, now = json.loads(record.read_text()), _linked(made)
        found += [made / name for name in before | now if before.get(name) != now.get(name)]
    return found


def replace(path: Path, data: bytes) -> None:
    """Give a copy a file of its own in place of the one that all copies share."""
    own = path.with_name(f".{path.name}")
    own.write_bytes(data)
    shutil.copystat(path, own)
    own.replace(path)


def copy(source: Path, target: Path, without: Path | None = None) -> None:
    """Copy a project or a ROOT but for one folder; what its digest names becomes a hard link."""

    def one(from_: str, to: str) -> None:
        if set(Path(from_).relative_to(source).parts) & set(NAMED_BY_DIGEST):
            os.link(from_, to, follow_symlinks=False)
        else:
            shutil.copy2(from_, to, follow_symlinks=False)

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name) == without]

    shutil.copytree(
        source, target, symlinks=True, ignore=left_out, copy_function=one, dirs_exist_ok=True
    )


def copy_project(source: Path, target: Path, port: int) -> None:
    """Copy a packed project, without its devices, to where the broker's port is another."""
    devices = source / ".edgekit" / "devices"
    copy(source, target, without=devices)
    _with_port(target / "edgekit.toml", port)


def copy_root(source: Path, made_at: Path, target: Path, port: int) -> None:
    """Copy a stopped device's ROOT to where the broker's port is another.

    Args:
        made_at: where the source lay while the device ran. Its compiled modules lie below that
            path's name; below the new one they need not be compiled again.
    """
    copy(source, target)
    _with_port(target / "etc" / "agent.toml", port)
    old, new = (target / "run" / "pycache" / path.relative_to("/") for path in (made_at, target))
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)


def _with_port(config: Path, port: int) -> None:
    text, found = re.subn(r"(?m)^port = \d+$", f"port = {port}", config.read_text("utf-8"))
    assert found == 1, text
    config.write_text(text, "utf-8")

"""What all processes of a test run share: a packed project, and ROOT of a device after a push.

The first process that needs one makes it with the commands of a person, in the run's temporary
folder; everybody gets a copy. What is named by its digest is linked, everything else is copied: a
test may change any file of its copy but those.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from edgekit.builder.files import hash_file

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
            half(folder).rename(folder)
    return folder


def changed(folder: Path) -> list[str]:
    """The blobs of shared folders that are not what their names say: a test wrote to a copy.

    Another process may still be making a folder: that one is left out.
    """
    made = (path for path in folder.glob("*") if path.is_dir() and path != half(path))
    blobs = (path for each in made for path in each.rglob("blobs/sha256/*") if path.is_file())
    return [path.name for path in blobs if path.name != hash_file(path)]


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

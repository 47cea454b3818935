"""What an enrolment on a device made, and the tools of its steps. Runs *there*.

Standard library only: `edgekit.fleet.enroll.drive` sends the text of this module.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PENDING = ".edgekit-enroll.json"  # the record while its own folder does not exist yet
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
Step = dict[str, Any]


class StepFailedError(Exception):
    """A step that could not be done, and why."""


def run(*argv: str, stdin: bytes = b"", fine: tuple[int, ...] = (0,)) -> str:
    """The output of a command; raises StepFailedError with its last words."""
    environment = {**os.environ, "LC_ALL": "C", "PATH": PATH}
    environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, check=False, env=environment, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StepFailedError(f"{argv[0]}: {error}") from error
    if done.returncode not in fine:
        said = done.stderr.decode("utf-8", "replace").strip() or f"ended with {done.returncode}"
        raise StepFailedError(f"{' '.join(argv)}: {said[-300:]}")
    return done.stdout.decode("utf-8", "replace")


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file by rename, on disk before this returns."""
    temporary = path.with_name(f".{path.name}.edgekit")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def drop(path: Path) -> bool:
    """Remove a file or a link if it is there."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True


def make_folder(record: MadeLog, path: Path, mode: int) -> bool:
    """Make a folder and those above it."""
    if path.is_dir():
        return False
    missing = [path, *(p for p in path.parents if not p.exists())]
    for one in reversed(missing):
        record.makes("folder", str(one))
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        one.chmod(mode if one == path else 0o755)
    return True


class MadeLog:
    """What an enrolment made. While its folder is missing it lies in the nearest one above."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: dict[str, Any] = {"made": []}
        for place in (path, *(parent / PENDING for parent in path.parents)):
            if place.is_file():
                self._told = json.loads(place.read_bytes())
                break

    def begin(self, told: dict[str, Any]) -> bool:
        """Say whose enrolment this is."""
        before = dict(self._told)
        self._told.update(told)
        if self._told == before and self.path.is_file():
            return False
        self._save()
        if not self.path.parent.is_dir():
            make_folder(self, self.path.parent, 0o755)
        self._save()
        return True

    def makes(self, kind: str, name: str) -> None:
        """Write that something is about to be made."""
        entry = [kind, name]
        if entry not in self._told["made"]:
            self._told["made"].append(entry)
            self._save()

    def _save(self) -> None:
        data = json.dumps(self._told, indent=1).encode()
        above = next(p for p in self.path.parents if p.is_dir())
        direct = above == self.path.parent
        write(self.path if direct else above / PENDING, data, 0o600)
        if direct:
            for parent in self.path.parents:
                drop(parent / PENDING)

    def end(self, more: list[Path]) -> bool:
        """Remove the record and the folders that only it needed."""
        folders = more + [Path(name) for kind, name in self._told["made"] if kind == "folder"]
        found = drop(self.path)
        for parent in self.path.parents:
            found = drop(parent / PENDING) or found
        for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
            try:
                folder.rmdir()
                found = True
            except OSError:
                continue
        return found


class NoMadeLog(MadeLog):
    """For what lies in ROOT: it goes with ROOT, so no record names it."""

    def __init__(self) -> None:
        pass

    def makes(self, kind: str, name: str) -> None:
        """Nothing to write."""


def systemctl(step: Step, *words: str) -> str:
    scope = ("--user",) if step["user"] else ("--system",)
    return run("systemctl", *scope, "--no-ask-password", *words)


def unit_has(step: Step, unit: str) -> dict[str, str]:
    """How systemd sees a unit."""
    names = "LoadState,UnitFileState,ActiveState,NeedDaemonReload,MainPID"
    lines = systemctl(step, "show", f"--property={names}", unit).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)

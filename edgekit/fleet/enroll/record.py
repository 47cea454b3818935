"""What an enrolment on a device made, and the tools of its steps. Runs *there*.

Standard library only: `edgekit.fleet.enroll.drive` sends the text of this module.
"""

from __future__ import annotations

import errno
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


def temporary_of(path: Path) -> Path:
    """Where `write` has a file before it is whole; a kill leaves it there."""
    return path.with_name(f".{path.name}.edgekit")


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file by rename, on disk before this returns."""
    temporary = temporary_of(path)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


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
        sync(one.parent)  # the record may soon lie in it
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
        if self._told == before and self.path.is_file() and not self._drop_pending():
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
            self._drop_pending()

    def _drop_pending(self) -> bool:
        """Remove what lies of the record above its folder."""
        places = [parent / PENDING for parent in self.path.parents]
        dropped = [drop(one) for place in places for one in (place, temporary_of(place))]
        return any(dropped)

    def end(self, more: list[Path]) -> bool:
        """Remove the folders that were made, and the record last: a removal that is cut goes on.

        Meanwhile the record lies above them. What somebody else put into a folder keeps it.
        """
        made = more + [Path(name) for kind, name in self._told["made"] if kind == "folder"]
        folders = sorted(set(made), key=lambda path: len(path.parts), reverse=True)
        found = self.path.is_file()
        if found:
            above = next(p for p in self.path.parents if p.is_dir() and p not in folders)
            write(above / PENDING, self.path.read_bytes(), 0o600)
            drop(self.path)
        drop(temporary_of(self.path))
        for folder in folders:
            try:
                folder.rmdir()
                found = True
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        os.sync()  # all is gone, also after a power cut, before nothing tells of it any more
        return self._drop_pending() or found


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

"""The steps that take something back from a device. Runs *there*: standard library only.

A step whose thing is gone already changes nothing.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import shutil
import signal
import time
from contextlib import suppress
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path

from edgekit.fleet.enroll.record import (
    MadeLog,
    Step,
    StepFailedError,
    drop,
    run,
    systemctl,
    temporary_of,
    unit_has,
)

WAIT_SECONDS = 30.0
DRAIN_SECONDS = 90.0


def do_no_account(step: Step, _: MadeLog) -> bool:
    name = step["name"]
    changed = False
    try:
        uid = pwd.getpwnam(name).pw_uid
        end_all_of(uid)
        run("userdel", name)
        changed = True
    except KeyError:
        pass
    try:
        grp.getgrnam(name)
        run("groupdel", name)
        changed = True
    except KeyError:
        pass
    return changed


def end_all_of(uid: int) -> None:
    """End the processes of an account that is about to go."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        left = [p for p in Path("/proc").glob("[0-9]*") if belongs_to(p, uid)]
        if not left:
            return
        for process in left:
            try:
                os.kill(int(process.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise StepFailedError(f"processes {', '.join(p.name for p in left)} do not end")
        time.sleep(0.05)


def belongs_to(process: Path, uid: int) -> bool:
    """Whether a process runs as an account, and is more than a corpse."""
    try:
        ended = (process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        return process.stat().st_uid == uid and ended != "Z"
    except OSError:
        return False


def do_no_units(step: Step, _: MadeLog) -> bool:
    """Stop and disable units, and remove their files; running instances of `@` units too."""
    changed = False
    folder = Path(step["folder"])
    for unit in step["units"]:
        if "@." in unit:
            pattern = unit.replace("@.", "@*.")
            changed = bool(systemctl(step, "list-units", "--plain", "--no-legend", pattern))
            systemctl(step, "stop", pattern)
            continue
        has = unit_has(step, unit)
        if has["LoadState"] == "loaded" and has["ActiveState"] not in ("inactive", "failed"):
            systemctl(step, "stop", unit)
            changed = True
        if has["UnitFileState"] == "enabled":
            systemctl(step, "disable", unit)
            changed = True
    for unit in step["units"]:
        drop(temporary_of(folder / unit))
        if drop(folder / unit):
            changed = True
    if changed:
        systemctl(step, "daemon-reload")
        for unit in step["units"]:
            if "@." not in unit:
                try:
                    systemctl(step, "reset-failed", unit)
                except StepFailedError:
                    continue  # it had not failed
    return changed


def do_gone(step: Step, _: MadeLog) -> bool:
    """Remove a file."""
    path = Path(step["path"])
    drop(temporary_of(path))
    return drop(path)


def do_root_gone(step: Step, _: MadeLog) -> bool:
    """Remove what edgekit has in ROOT, and ROOT where nothing else is in it."""
    root = Path(step["root"])
    if root.is_symlink() or not root.is_dir():
        return False
    kept = set(step.get("kept", ()))
    changed = False
    for path in list(root.iterdir()):  # `glob` passes over a link to nothing
        if not any(fnmatch(path.name, pattern) for pattern in step["names"]):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            clear(path, kept)
        changed = True
    try:
        root.rmdir()
    except OSError:
        left = sorted(p.name for p in root.iterdir() if not holds(p, kept))
        if left:
            raise StepFailedError(
                f"{root} also has {', '.join(left[:9])}: look at it by hand"
            ) from None
    return changed


def holds(path: Path, kept: set[str]) -> bool:
    return any(one == str(path) or one.startswith(f"{path}/") for one in kept)


def clear(path: Path, kept: set[str]) -> None:
    """Remove a tree but for files to keep."""
    if not holds(path, kept):
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o700)  # an unpacked tree may forbid it
        shutil.rmtree(path)
        return
    for child in path.iterdir():
        if not holds(child, kept):
            clear(child, kept) if child.is_dir() and not child.is_symlink() else child.unlink()
    with suppress(OSError):
        path.rmdir()  # nothing in it was to be kept


def do_no_record(step: Step, record: MadeLog) -> bool:
    """Remove the record, and the folders that are empty without it."""
    return record.end([Path(one) for one in step["folders"]])


def supervisor(root: Path) -> int:
    """The process that holds the lock of ROOT's pid file; 0 without one."""
    try:
        with (root / "run" / "supervisor.pid").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0)
    except (OSError, ValueError):
        return 0
    return 0


def do_stop(step: Step, _: MadeLog) -> bool:
    """End a supervisor that no unit has: a push started it in a session of its own."""
    root = Path(step["root"])
    pid = supervisor(root)
    unit = step.get("unit", "")
    if not pid or (unit and unit_has(step, unit).get("MainPID") == str(pid)):
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DRAIN_SECONDS
    while supervisor(root) == pid:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            deadline += WAIT_SECONDS
        time.sleep(0.05)
    return True

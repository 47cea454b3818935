"""Finds out what a device lets an account do, by trying it. Runs *there*: standard library only.

`look.py ROOT RECORD HOME` prints one JSON object; `edgekit.fleet.enroll.values` reads it. RECORD is
the file in which an enrolment says what it made, HOME that of the account that logged in. It
changes nothing.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

PENDING = ".edgekit-enroll.json"  # the record while its own folder does not exist yet
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CRONS = ("cron", "crond", "fcron", "dcron", "bcron-sched", "anacron")


def tried(*argv: str, **more: str) -> tuple[int, str, str]:
    """The exit code and both outputs of a command; 127 where it is not there."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{PATH}", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
            env={**environment, **more},
        )  # fmt: skip
    except FileNotFoundError:
        return 127, "", f"there is no {argv[0]}"
    except (OSError, subprocess.SubprocessError) as error:
        return 126, "", str(error)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return done.returncode, done.stdout.decode("utf-8", "replace"), said[-1] if said else ""


def bus() -> dict[str, str]:
    """Where the account's own systemd listens."""
    return {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}


def why_not(code: int, said: str) -> str:
    """The reason of a failed try; empty after a success."""
    return "" if code == 0 else said or f"it ended with {code}"


def cron_runs() -> bool:
    """Whether a cron daemon runs: without one a crontab is only a file."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            names = {(place / "comm").read_text("utf-8", "replace").strip()}
        except OSError:
            continue
        names.update(Path(os.fsdecode(word)).name for word in words[:2])
        if names & set(CRONS):
            return True
    return False


def cron_problem() -> str:
    """Why lines of this cron would not start anything at boot; empty if they do."""
    program = shutil.which("crontab", path=f"{os.environ.get('PATH', '')}:{PATH}") or ""
    if os.path.basename(os.path.realpath(program)).startswith("busybox"):
        return "cron is that of busybox, which knows no @reboot"
    return ""


def account(name: str) -> dict[str, object] | None:
    """An account of this device."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return {"uid": found.pw_uid, "home": found.pw_dir, "shell": found.pw_shell}


def record(path: Path) -> str:
    """The text of a record, or of one that was begun; empty without one."""
    places = [path, *(parent / PENDING for parent in path.parents)]
    for place in places:
        try:
            return place.read_text("utf-8")
        except (OSError, ValueError):
            continue
    return ""


def owner(root: Path) -> str:
    """The account that owns ROOT; empty without ROOT."""
    try:
        uid = root.lstat().st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def look(root: Path, record_file: Path, home: Path) -> dict[str, object]:
    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    door = "edgekit/agent/release/door/serve.py"
    doors = (root / "current" / "agent" / door, root / "bootstrap" / door)
    sudo = why_not(*tried("sudo", "-n", "true")[::2]) if uid else ""
    version = ("systemctl", "show", "--property=Version", "--value")
    code, out, said = tried(*version)
    systemd = why_not(code or (0 if out.strip() else 1), said)
    code, out, said = tried(version[0], "--user", *version[1:], **bus())
    user_systemd = why_not(code or (0 if out.strip() else 1), said)
    code, crontab, said = tried("crontab", "-l")
    if code == 1 and "no crontab for" in said:
        code, crontab = 0, ""
    return {
        "user": user,
        "uid": uid,
        "home": str(Path.home()),
        "has_sudo": bool(shutil.which("sudo", path=PATH)),
        "no_sudo": sudo,
        "no_systemd": systemd,
        "no_user_systemd": user_systemd,
        "linger": Path("/var/lib/systemd/linger", user).exists(),
        "no_crontab": why_not(code, said) or cron_problem(),
        "crontab": crontab,
        "cron_runs": cron_runs(),
        "accounts": {name: account(name) for name in ("edgekit", "edgekit-push")},
        "no_useradd": "" if shutil.which("useradd", path=PATH) else "there is no useradd",
        "no_openssl": why_not(*tried("openssl", "version")[::2]),
        "record": record(record_file),
        "root_is_link": os.path.islink(root),
        "root_owner": owner(root),
        "has_release": os.path.islink(root / "current"),
        "has_door": any(map(os.path.exists, doors)),
        "account_home": str(home),
        "parts": {str(p): p.stat().st_size for p in home.glob(".edgekit-bootstrap-*.part")},
    }


if __name__ == "__main__":
    print(json.dumps(look(*map(Path, sys.argv[1:4]))))

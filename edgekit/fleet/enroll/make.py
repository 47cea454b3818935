"""The steps that make something on a device. Runs *there*: standard library only.

A step looks first whether it is done, and says whether it has changed something.
"""

from __future__ import annotations

import base64
import grp
import json
import os
import pwd
import shutil
import time
from pathlib import Path

from edgekit.fleet.enroll.record import (
    MadeLog,
    Step,
    StepFailedError,
    make_folder,
    run,
    systemctl,
    unit_has,
    write,
)
from edgekit.fleet.receive import receive

WAIT_SECONDS = 30.0


def own(path: Path, owner: str) -> bool:
    """Give a file or folder to an account; whether it was another's."""
    if not owner:
        return False
    account = pwd.getpwnam(owner)
    if path.lstat().st_uid == account.pw_uid:
        return False
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return True


def do_folder(step: Step, record: MadeLog) -> bool:
    path, mode = Path(step["path"]), step["mode"]
    if path.is_symlink():
        raise StepFailedError(f"{path} is a link")
    changed = make_folder(record, path, mode)
    changed = own(path, step.get("owner", "")) or changed
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
        changed = True
    return changed


def is_json(path: Path) -> bool:
    """Whether a file is whole: after a power cut it may be empty."""
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def do_file(step: Step, record: MadeLog) -> bool:
    path, mode = Path(step["path"]), step["mode"]
    data = base64.b64decode(step["content"])
    if path.is_symlink() or path.is_dir():
        raise StepFailedError(f"{path} is no file")
    if path.exists():
        if step.get("keep") and is_json(path):
            return False
        if path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
            return False
    else:
        record.makes("file", str(path))
    write(path, data, mode)
    return True


def do_account(step: Step, record: MadeLog) -> bool:
    name = step["name"]
    try:
        pwd.getpwnam(name)
    except KeyError:
        pass
    else:
        return False
    record.makes("account", name)
    group: tuple[str, ...]
    try:
        grp.getgrnam(name)
        group = ("--gid", name)
    except KeyError:
        group = ("--user-group",)
    run(
        *("useradd", "--system", *group, "--home-dir", step["home"], "--no-create-home"),
        *("--shell", step["shell"], "--password", "*", "--comment", "edgekit", name),
    )
    return True


def crontab() -> str:
    try:
        return run("crontab", "-l")
    except StepFailedError as error:
        if "no crontab for" in str(error):
            return ""
        raise


def do_crontab(step: Step, record: MadeLog) -> bool:
    """The account's crontab has our line, or none with our mark; the other lines stay."""
    before = crontab()
    ours = [line for line in before.splitlines(True) if line.rstrip("\n").endswith(step["mark"])]
    wanted = [step["line"] + "\n"] if step.get("line") else []
    if ours == wanted:
        return False
    kept = "".join(line for line in before.splitlines(True) if line not in ours)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    text = kept + "".join(wanted)
    if wanted:
        record.makes("crontab", step["mark"])
    if text:
        run("crontab", "-", stdin=text.encode())
    else:
        run("crontab", "-r")
    if crontab().splitlines() != text.splitlines():
        raise StepFailedError("the crontab does not have the line that it was given")
    return True


def do_linger(step: Step, record: MadeLog) -> bool:
    user = pwd.getpwuid(os.getuid()).pw_name
    there = Path("/var/lib/systemd/linger", user)
    if there.exists() == step["on"]:
        return wait_for_manager(step["on"], False)
    if step["on"]:
        record.makes("linger", user)
    run("loginctl", "enable-linger" if step["on"] else "disable-linger")
    if there.exists() != step["on"]:
        raise StepFailedError("loginctl says yes, and nothing has changed")
    return wait_for_manager(step["on"], True)


def wait_for_manager(on: bool, changed: bool) -> bool:
    """Wait until the account's own systemd answers, once it lingers."""
    deadline = time.monotonic() + WAIT_SECONDS
    while on:
        try:
            run("systemctl", "--user", "show", "--property=Version")
            break
        except StepFailedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    return changed


def do_units(step: Step, record: MadeLog) -> bool:
    """Enable units, start those to start, and leave what is so already."""
    changed = False
    known = [unit for unit in step["reload"] if "@." not in unit]
    if any(unit_has(step, unit)["NeedDaemonReload"] == "yes" for unit in known):
        systemctl(step, "daemon-reload")
        changed = True
    for unit in step["enable"]:
        if unit_has(step, unit)["UnitFileState"] != "enabled":
            record.makes("unit", unit)
            systemctl(step, "enable", unit)
            changed = True
    for unit in step["start"]:
        if unit_has(step, unit)["ActiveState"] in ("inactive", "failed"):
            systemctl(step, "start", "--no-block", unit)
            changed = True
    return changed


def do_key(step: Step, record: MadeLog) -> bool:
    """Make a private key, which never leaves this device, and a request for its certificate."""
    key = Path(step["path"])
    if not key.exists():
        record.makes("file", str(key))
        made = run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        write(key, made.encode(), 0o600)
        changed = True
    else:
        changed = False
    subject = f"/CN={step['name']}"
    has = key.with_suffix(".crt")
    told = {
        "request": run("openssl", "req", "-new", "-key", str(key), "-subj", subject),
        "certificate": has.read_text("utf-8", "replace") if has.is_file() else "",
    }
    step["said"] = json.dumps(told)
    return changed


def do_bootstrap(step: Step, _record: MadeLog) -> bool:
    """Unpack the agent of a first contact into ROOT; its bytes come from another account's file."""
    root, name = Path(step["root"]), step["name"]
    link = root / "bootstrap"
    if link.is_symlink() and link.readlink().name == f"bootstrap-{name}":
        return False
    part = root / f".bootstrap-{name}.part"
    with os.fdopen(step["opened"], "rb") as source, part.open("wb") as target:
        shutil.copyfileobj(source, target)
    _, unpacked = receive(root, name, step["size"])
    if not unpacked:
        raise StepFailedError("the bytes that arrived are not those that were sent")
    return True


def do_record(step: Step, record: MadeLog) -> bool:
    return record.begin(step["told"])

"""Looks at this machine and at a project for `doctor`; `decide` says what it means."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import struct
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from edgekit import keyfile
from edgekit.builder.tools.engine import find_engine
from edgekit.builder.tools.host import check_machine, find_python
from edgekit.bundle.sign import KEY_NAME
from edgekit.cli.doctor import decide
from edgekit.cli.doctor.diagnosis import Diagnosis, of_error
from edgekit.cli.doctor.holder import holder
from edgekit.cli.release.trust import trust_of
from edgekit.data import cache_root
from edgekit.errors import EdgekitError
from edgekit.fleet.check import CheckedDevice, look
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.survey import survey
from edgekit.signing.manage import Trust
from edgekit.signing.roles import EARLIEST, ROLES, keys_of

GATEWAY_PORT = 8080
ASKED_DEVICES = 20
DEVICE_SECONDS = 12.0
ASK_SECONDS = 5.0


def python() -> list[Diagnosis]:
    """The interpreter."""
    bits = struct.calcsize("P") * 8
    return [decide.python(sys.version_info[:3], bits, sys.platform, platform.machine())]


def engine() -> list[Diagnosis]:
    """What builds models here."""
    found, refused, host = None, None, None
    try:
        found = find_engine()
    except EdgekitError as error:
        refused = error
    try:
        check_machine(sys.platform, platform.machine())
        find_python()
    except EdgekitError as error:
        host = error
    user = _user()
    ids = all(_names(Path(file), user) for file in ("/etc/subuid", "/etc/subgid"))
    uidmap = all(shutil.which(name) for name in ("newuidmap", "newgidmap"))
    return [decide.engine(decide.SeenEngine(found, refused, ids, uidmap, user, host))]


def _user() -> str:
    """The user's name; in a container a number need not have one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _names(file: Path, user: str) -> bool:
    """Whether a file of subordinate ids has a line for this user (subuid(5))."""
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.partition(":")[0] in (user, str(os.getuid())) for line in lines)


def disk(folder: Path) -> list[Diagnosis]:
    """Room where the project and the cache lie; once where both are one file system."""
    places: dict[int, Path] = {}
    for place in (folder, cache_root()):
        while not place.exists():
            place = place.parent  # noqa: PLW2901  the nearest folder that exists
        places.setdefault(place.stat().st_dev, place)
    return [decide.disk(str(each), shutil.disk_usage(each).free) for each in places.values()]


def gateway_port() -> list[Diagnosis]:
    """Whether the gateway's port is free."""
    return [decide.port(GATEWAY_PORT, holder(GATEWAY_PORT))]


def clock() -> list[Diagnosis]:
    """This machine's clock."""
    return [decide.clock(_synchronised(), datetime.now(UTC), EARLIEST)]


def _synchronised() -> bool | None:
    said = _ask(["timedatectl", "show", "--property", "NTPSynchronized", "--value"])
    return {"yes": True, "no": False}.get(said.strip())


def _ask(argv: list[str]) -> str:
    """The output of a program; empty where it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def keys(folder: Path) -> list[Diagnosis]:
    """The keys of a project, the modes of their files, and the life of what they signed."""
    trust, found, here = trust_of(folder), [], set()
    if not trust.folder.exists:
        step = "edgekit init makes it; edgekit import brings that of another project"
        return [Diagnosis("keys", "wrong", "this project has no root of trust", "", step)]
    held = trust.keys.folder
    if held.is_dir() and (mode := held.stat().st_mode & 0o777) & 0o077:
        why, step = f"its mode is {mode:o}", f"chmod 700 {held}"
        found.append(Diagnosis("keys", "wrong", f"others can look into {held}", why, step))
    for path in sorted(held.glob("*.pem")):
        try:
            keyid = keyfile.load(path, "").public_key.keyid
        except EdgekitError as error:
            found.append(of_error("keys", error))
            continue
        if path.name != KEY_NAME:
            here.add(keyid)
    return found + _metadata(trust, here)


def _metadata(trust: Trust, here: set[str]) -> list[Diagnosis]:
    published = trust.folder.read()
    files = [published.root, *published.online()]
    if published.targets:
        files.append(published.newest_targets())
    roles = frozenset(role for role in ROLES if here & set(keys_of(published.root, role)))
    seen = decide.SeenTrust({file.type: decide.utc(file.expires) for file in files}, roles)
    return decide.metadata(seen, datetime.now(UTC))


def extras(folder: Path | None) -> list[Diagnosis]:
    """Which optional packages are there."""
    used = folder is not None and (folder / ".edgekit" / "gateway-keys.json").exists()
    there = {
        "gateway": all(find_spec(name) for name in ("starlette", "uvicorn")),
        "pictures": find_spec("PIL") is not None,
    }
    return decide.extras(there, used)


def ssh(fleet: Fleet) -> list[Diagnosis]:
    """What there is to log in with."""
    folder = Path.home() / ".ssh"
    found = sorted(each.name for each in folder.glob("id_*") if _is_private(each))
    hosts = sum(each.address.startswith("ssh:") for each in fleet.devices.values())
    client = all(shutil.which(name) for name in ("ssh", "ssh-keygen"))
    return decide.ssh(decide.SeenSsh(client, _agent_keys(), tuple(found), hosts))


def _is_private(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"PRIVATE KEY" in file.read(100)
    except OSError:
        return False


def _agent_keys() -> int | None:
    """How many keys the agent of this login holds; None without an agent."""
    if not os.environ.get("SSH_AUTH_SOCK") or not shutil.which("ssh-add"):
        return None
    try:
        done = subprocess.run(
            ["ssh-add", "-l"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode == 2:  # ssh-add(1): it cannot reach the agent
        return None
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0


def devices(fleet: Fleet) -> list[Diagnosis]:
    """Whether the first devices of a fleet are well; their clocks are compared with ours."""
    names = [name for name, each in fleet.devices.items() if not each.pulls]
    asked = names[:ASKED_DEVICES]
    found = []
    looked = survey(
        fleet,
        asked,
        lambda driver: look(driver, fleet.devices[driver.name].address),
        seconds=DEVICE_SECONDS,
    )
    for told in looked.values():
        if isinstance(told, CheckedDevice):
            found += _of_device(told)
        else:
            found.append(of_error("devices", told))
    if asked and not found:
        found = [Diagnosis("devices", "ok", f"{len(asked)} of fleet.toml's devices are well")]
    if pulling := len(fleet.devices) - len(names):
        what = f"{pulling} of fleet.toml's devices pull, and were not asked"
        why = "nobody connects to a device that pulls"
        found.append(Diagnosis("devices", "note", what, why, "edgekit devices"))
    if len(names) > len(asked):
        more = len(names) - len(asked)
        found.append(
            Diagnosis("devices", "note", f"{more} more were not asked", "", "edgekit fleet check")
        )
    return found


def _of_device(told: CheckedDevice) -> list[Diagnosis]:
    if told.release is None and not told.trouble:
        step = f"edgekit push {told.device}"
        return [Diagnosis("devices", "note", f"{told.device} has no release yet", "", step)]
    found = []
    for trouble in told.trouble:
        step = f"edgekit state {told.device}"
        if trouble.startswith("its clock"):
            step = f"on {told.device}: sudo timedatectl set-ntp true"
        elif trouble == "an operator stopped it":
            step = f"edgekit start {told.device}"
        elif trouble == "it does not answer":
            step = f"edgekit logs {told.device}"
        found.append(Diagnosis("devices", "wrong", f"{told.device}: {trouble}", "", step))
    return found

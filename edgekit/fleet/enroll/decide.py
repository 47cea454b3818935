"""Decides how a device comes back after a reboot, and the steps to it and back. Pure."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import Any

import msgspec

from edgekit.core import layout
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.enroll import units
from edgekit.fleet.enroll.values import (
    AGENT_ACCOUNT,
    BROKER_FOLDER,
    DOOR,
    PUSH_ACCOUNT,
    SERVICE,
    SYSTEM_FOLDER,
    SYSTEM_UNITS,
    USER_UNITS,
    EnrollPlan,
    MadeRecord,
    Starts,
    Step,
    Surroundings,
    Wish,
    file,
    folder,
)

RECORD = "enroll.json"
PUSH_HOME = SYSTEM_FOLDER / "push"
# What edgekit has in ROOT: `remove` takes these and leaves anything else.
ROOT_NAMES = (
    *("etc", "run", "log", "releases", "trees", "blobs", "oci-layout", "index.json"),
    *("state.db*", "journal.db*", "tuning.json*", "scrub.json", "reserve*"),
    *("current", "previous", "older"),
    *("bootstrap*", ".bootstrap*", ".current*", ".previous*", ".older*", ".*.tmp", "*.broken"),
    *(".cache", ".python_history"),
)


def record_file(root: PurePosixPath, *, system: bool) -> PurePosixPath:
    """Where the device keeps the record of what an enrolment made."""
    return (SYSTEM_FOLDER if system else root / layout.ETC) / RECORD


def is_system(found: Surroundings, asked: bool | None, root_told: bool, has_root: bool) -> bool:
    """Whether this is a system install.

    Args:
        found: the account.
        asked: what a flag or an earlier enrolment says; None: nothing.
        root_told: whether fleet.toml names a root of this device.
        has_root: whether pushes have filled a ROOT of the account already.

    Raises:
        UsageError: a system install is asked for and not possible; says why.
    """
    why = found.no_systemd or found.no_sudo or found.no_useradd
    if asked is None:
        return not (why or root_told or has_root)
    if not asked:
        return False
    if found.no_systemd:
        raise UsageError(
            "a system install is not possible on this device",
            f"systemd does not run there: {found.no_systemd}",
            "`edgekit enroll --user` uses cron where there is one",
        )
    if found.no_sudo:
        raise UsageError(
            "a system install is not possible from this account",
            f"{found.user} is not root, and sudo says: {found.no_sudo}",
            "enroll with `--as root`, give the account sudo, or use `--user`",
        )
    if found.no_useradd:
        raise UsageError(
            "a system install is not possible on this device",
            found.no_useradd,
            "install the package `passwd` (or `shadow`) there, or use `--user`",
        )
    return True


def check_same(found: MadeRecord | None, wish: Wish) -> None:
    """Check that an earlier enrolment there is this device's; raises UsageError."""
    if found is None or not found.device:
        return
    if found.device != wish.device:
        raise UsageError(
            f"this account is enrolled already, as {found.device}",
            f"its root is {found.root}; two devices cannot share it",
            f"`edgekit remove {found.device}` first, or give {wish.device} a root of its own",
        )
    if found.root != str(wish.root):
        raise UsageError(
            f"{wish.device} is enrolled already, with the root {found.root}",
            f"now its root would be {wish.root}",
            f"`edgekit remove {wish.device}` first, or take root= out of fleet.toml again",
        )


def enroll_plan(found: Surroundings, wish: Wish) -> EnrollPlan:
    """The steps that make an account a device.

    Raises:
        UsageError: ROOT or Python cannot be named by a unit, or another device is there.
        EdgekitError: ROOT is a link or belongs to another account.
    """
    check_same(found.made, wish)
    if ":" in str(wish.root) or not str(wish.root).isprintable():
        raise UsageError(
            f"{str(wish.root)!r} can be no root of a device",
            "a colon separates two folders for Python, and a control character ends a line of cron",
            "set root= of the device in fleet.toml to another folder",
        )
    owner = AGENT_ACCOUNT if wish.system else found.user
    if found.root_is_link or found.root_owner not in ("", owner):
        whose = "is a link" if found.root_is_link else f"belongs to {found.root_owner}"
        raise EdgekitError(
            f"{wish.root} on the device {whose}",
            f"it has to be a folder of {owner}",
            "remove it there, or set root= of the device in fleet.toml to another folder",
        )
    return _system_plan(found, wish) if wish.system else _user_plan(found, wish)


def _begin(wish: Wish) -> Step:
    told = {"device": wish.device, "root": str(wish.root), "system": wish.system}
    where = record_file(wish.root, system=wish.system)
    return Step("record", f"record of what is made: {where}", {"told": told})


def _in_root(wish: Wish, starts: Starts, account_of: str) -> list[Step]:
    """What lies in ROOT, written by the account that owns it; the mark `enrolled` comes last."""
    etc = wish.root / layout.ETC
    steps = [folder(etc, 0o700, account_of=account_of)]
    parents = {(wish.root / one.name).parent for one in wish.files}
    if wish.make_key:
        parents.add(wish.root / BROKER_FOLDER)
    steps += [folder(one, 0o700, account_of=account_of) for one in sorted(parents - {etc})]
    for one in wish.files:
        steps.append(file(wish.root / one.name, one.data, 0o600, account_of, keep=one.keep))
    if wish.make_key:
        key = wish.root / BROKER_FOLDER / "client.key"
        values = {"path": str(key), "name": wish.device, "account_of": account_of}
        steps.append(Step("key", f"private key {key}, made there, and a request", values))
    word = f"{starts.value}\n".encode()
    return [*steps, file(wish.root / layout.SUPERVISOR_FILE, word, 0o600, account_of)]


def _mark(wish: Wish, starts: Starts, account_of: str) -> Step:
    told = {"device": wish.device, "starts": starts.value}
    data = msgspec.json.encode(told) + b"\n"
    return file(wish.root / layout.ENROLLED_FILE, data, 0o600, account_of)


def _start(wish: Wish, texts: dict[str, str], found: Surroundings) -> list[Step]:
    """Enable and start; a supervisor of an earlier push ends first, its prompts stay."""
    enabled = units.installable(texts)
    values = {
        "user": not wish.system,
        "reload": list(texts),
        "enable": enabled,
        "start": units.started(texts, has_release=found.has_release),
    }
    steps = [Step("units", f"enable and start {', '.join(enabled)}", values)]
    if found.has_release:
        stop = {"root": str(wish.root), "unit": SERVICE, "user": not wish.system}
        steps.insert(0, Step("stop", "end the supervisor that a push started", stop))
    return steps


def _system_plan(found: Surroundings, wish: Wish) -> EnrollPlan:
    if problem := units.problem_of_path(wish.root, wish.python, system=True):
        raise UsageError(
            f"a system install cannot use {wish.root}",
            problem,
            "take root= (or python=) out of fleet.toml, or use `edgekit enroll --user`",
        )
    texts = units.system_units(wish.units, wish.root, wish.python)
    steps = [
        _begin(wish),
        _account(AGENT_ACCOUNT, wish.root),
        folder(wish.root, 0o700, AGENT_ACCOUNT),
        *_in_root(wish, Starts.SYSTEM, AGENT_ACCOUNT),
    ]
    if wish.bootstrap is not None:
        values = {**msgspec.structs.asdict(wish.bootstrap), "root": str(wish.root)}
        values["account_of"] = AGENT_ACCOUNT
        steps.append(Step("bootstrap", "agent that takes the first push", values))
    if wish.push_key:
        key = f'restrict,command="{DOOR}" {wish.push_key}\n'.encode()
        steps += [
            folder(DOOR.parent, 0o755),
            file(DOOR, units.door(wish.door, wish.python).encode(), 0o755),
            _account(PUSH_ACCOUNT, PUSH_HOME),
            folder(PUSH_HOME, 0o755),
            folder(PUSH_HOME / ".ssh", 0o755),
            file(PUSH_HOME / ".ssh" / "authorized_keys", key, 0o644),
        ]
    steps += [file(SYSTEM_UNITS / name, text.encode(), 0o644) for name, text in texts.items()]
    steps += _start(wish, texts, found)
    steps.append(_mark(wish, Starts.SYSTEM, AGENT_ACCOUNT))
    record = record_file(wish.root, system=True)
    return EnrollPlan(tuple(steps), Starts.SYSTEM, str(record))


def _account(name: str, home: PurePosixPath) -> Step:
    # sshd runs a forced command by the account's shell; its home and keys are root's
    values = {"name": name, "home": str(home), "shell": "/bin/sh"}
    return Step("account", f"system account {name}, home {home}", values)


def _user_plan(found: Surroundings, wish: Wish) -> EnrollPlan:
    starts, notes = how_it_starts(found, wish)
    if found.uid == 0:
        why = found.no_systemd or found.no_useradd or "it was not asked for"
        note = f"no system install: {why}; so the agent and each push run as root there. "
        notes = (*notes, note + "`--as USER` enrolls an account that can do less")
    steps = [_begin(wish), folder(wish.root, 0o700)]
    if starts is Starts.USER:
        steps.append(Step("linger", f"loginctl enable-linger for {found.user}", {"on": True}))
    steps += _in_root(wish, starts, "")
    mark = cron_mark(wish.root)
    if starts is Starts.USER:
        texts = units.user_units(wish.units, wish.root, wish.python)
        place = PurePosixPath(found.home) / USER_UNITS
        steps += [folder(place, 0o755)]
        steps += [file(place / name, text.encode(), 0o644) for name, text in texts.items()]
        steps += _start(wish, texts, found)
    if mark in found.crontab or starts is Starts.CRON:
        line = cron_line(wish.root, wish.python) if starts is Starts.CRON else ""
        what = "a line for @reboot" if line else "without the line of an earlier enrolment"
        steps.append(Step("crontab", f"crontab: {what}", {"line": line, "mark": mark}))
    steps.append(_mark(wish, starts, ""))
    record = record_file(wish.root, system=False)
    return EnrollPlan(tuple(steps), starts, str(record), notes)


def how_it_starts(found: Surroundings, wish: Wish) -> tuple[Starts, tuple[str, ...]]:
    """The best way back after a reboot without root, and why the better ones do not work.

    A user unit needs linger. Where that is not set yet, the plan tries to set it; if the device
    refuses, `no_user_systemd` of the second look says so, and cron is next.
    """
    notes = []
    problem = units.problem_of_path(wish.root, wish.python, system=False)
    if not (why := found.no_user_systemd or problem):
        return Starts.USER, ()
    notes.append(f"no user unit: {why}")
    if found.no_crontab:
        notes.append(f"no cron: {found.no_crontab}")
    elif not found.cron_runs:
        notes.append("no cron: crontab takes lines, but no cron daemon runs")
    else:
        return Starts.CRON, tuple(notes)
    return Starts.NOTHING, tuple(notes)


def cron_mark(root: PurePosixPath) -> str:
    """The end of our line in a crontab."""
    return f"# edgekit {root}".replace("%", r"\%")


def cron_line(root: PurePosixPath, python: str) -> str:
    """The line that starts the agent at boot; cron itself reads `%` unless it is escaped."""
    trees = layout.release_trees(root / layout.CURRENT)
    environment = layout.environment(root, trees)
    words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    words += [python, "-S", "-P", "-m", "edgekit.agent", "boot", "--root", str(root)]
    log = shlex.quote(str(root / layout.LOG_FILE))
    command = f"{shlex.join(words)} </dev/null >>{log} 2>&1".replace("%", r"\%")
    return f"@reboot {command} {cron_mark(root)}"


def check_own(found: MadeRecord | None, configured: str, device: str) -> None:
    """Check that what is to be removed is this device's, and not that of a wrong address.

    Args:
        found: what an enrolment there made.
        configured: the device whose settings the account has; empty: none.
        device: its name in fleet.toml.

    Raises:
        UsageError: it is another device's.
    """
    other = (found.device if found else "") or configured
    if other not in ("", device):
        raise UsageError(
            f"the account at the address of {device} is that of {other}; nothing was removed",
            "its models, prompts and settings would be gone",
            f"correct the address of {device} in fleet.toml; if {other} has become {device}, give "
            f"it the name {other} there again, then `edgekit remove {other}`",
        )


def remove_plan(
    found: Surroundings, root: PurePosixPath, names: list[str], *, system: bool
) -> EnrollPlan:
    """The steps that take a device back, also a half enrolled or a never enrolled one.

    Args:
        found: what is there.
        root: absolute path of ROOT.
        names: the files of `deploy/systemd`.
        system: whether it is a system install.

    Raises:
        EdgekitError: ROOT is no folder that edgekit may empty.
    """
    made = found.made or MadeRecord([])
    _check_root(root, found)
    record = record_file(root, system=system)
    stop: dict[str, Any] = {"root": str(root)}
    steps: list[Step] = []
    folders = {SYSTEM_UNITS} if system else {PurePosixPath(found.home) / USER_UNITS}
    if system or made.names("unit") or any(SERVICE in one for one in made.names("file")):
        for place in folders:
            values = {"units": names, "folder": str(place), "user": not system}
            steps.append(Step("no_units", f"stop, disable and remove units in {place}", values))
    steps.append(Step("stop", "end the supervisor", stop))
    for mark in made.names("crontab"):
        steps.append(Step("crontab", "crontab: without our line", {"line": "", "mark": mark}))
    if made.names("linger"):
        steps.append(Step("linger", f"loginctl disable-linger for {found.user}", {"on": False}))
    kept = [str(record)]
    values = {"root": str(root), "names": list(ROOT_NAMES), "kept": kept}
    steps.append(Step("root_gone", f"remove {root}", values))
    steps += [Step("gone", f"remove {path}", {"path": path}) for path in found.parts]
    for path in reversed(made.names("file")):
        if path != str(record) and not path.startswith(f"{root}/"):
            steps.append(Step("gone", f"remove {path}", {"path": path}))
    for name in reversed(made.names("account")):
        steps.append(Step("no_account", f"remove the account {name}", {"name": name}))
    ours = {"folders": [str(root / layout.ETC), str(root)]}
    steps.append(Step("no_record", "remove the record and the folders that were made", ours))
    return EnrollPlan(tuple(steps), Starts.NOTHING, str(record))


def _check_root(root: PurePosixPath, found: Surroundings) -> None:
    """Refuse to empty what can be no ROOT."""
    if (
        len(root.parts) < 3
        or str(root) == found.home
        or PurePosixPath(found.home).is_relative_to(root)
    ):
        raise EdgekitError(
            f"{root} is not emptied",
            "it is a home, or a folder of the system",
            "remove edgekit's files there by hand, and set root= of the device to another folder",
        )

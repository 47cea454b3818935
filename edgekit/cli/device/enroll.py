"""`enroll`, `remove`: an account becomes a device that comes back, and an account again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekit import data
from edgekit.bundle.layers import bootstrap
from edgekit.cli import project, questions, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.errors import EdgekitError, PartialError, UnreachableError, UsageError
from edgekit.fleet import inventory
from edgekit.fleet.enroll import book, carry, drive
from edgekit.fleet.enroll.fleetfile import by_hand, edited
from edgekit.fleet.enroll.hosts import (
    Arrived,
    HostKeyAsked,
    account_of,
    arrive,
    why_not_let_in,
    with_account,
)
from edgekit.fleet.enroll.pin import unpin
from edgekit.fleet.enroll.values import PUSH_ACCOUNT, Carried, Starts
from edgekit.fleet.facts import DeviceFacts
from edgekit.store import rewrite

UNITS, USER_UNITS, DOOR = "deploy/systemd", "deploy/systemd/user", "deploy/door/edgekit-door"
AsOption = Annotated[
    str, typer.Option("--as", metavar="USER", help="Log in as this account; default: as before.")
]
SystemOption = Annotated[
    bool | None,
    typer.Option(
        "--system/--user",
        help="System install, or the account's own; default: as the device allows.",
    ),
]
CaKeyOption = Annotated[
    Path | None,
    typer.Option(help="The CA's key: signs a key that the device makes and never gives away."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the steps, change nothing.")]
AskSudoOption = Annotated[
    bool, typer.Option("--ask-sudo", help="Ask for the password of sudo on the terminal.")
]


def enroll(
    devices: Annotated[list[str], typer.Argument(help="Devices or groups of fleet.toml.")],
    system: SystemOption = None,
    hardware: Annotated[
        list[str] | None, typer.Option(help="A name of the device's hardware, repeatable.")
    ] = None,
    host_key: Annotated[
        str, typer.Option(metavar="SHA256:...", help="The fingerprint that the host key must have.")
    ] = "",
    accept_new_host_key: Annotated[
        bool, typer.Option("--accept-new-host-key", help="Trust a host key that is not known yet.")
    ] = False,
    ca: Annotated[Path | None, typer.Option(help="The broker's CA, carried to the device.")] = None,
    cert: Annotated[
        str, typer.Option(help="The device's certificate; {device} stands for its name.")
    ] = "",
    key: Annotated[str, typer.Option(help="Its private key; {device} as above.")] = "",
    ca_key: CaKeyOption = None,
    account: AsOption = "",
    ask_sudo: AskSudoOption = False,
    dry_run: DryRunOption = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an account with sshd a device that comes back after a power cut.

    With root or sudo it becomes a system install: accounts, units and /var/lib/edgekit. Without,
    a systemd user unit with linger or a line of cron starts the agent. Enrolling again changes
    nothing that is right.

    \b
    Example:  edgekit enroll pi-1 --accept-new-host-key
              edgekit enroll pi-1 --ca ca.crt --ca-key ca.key --hardware pi5
    """  # fmt: skip
    here = project.find(project_folder)
    fleet = here.fleet()
    names = fleet.select(devices)
    _check_trust(here.folder)
    asked_key = HostKeyAsked(host_key, accept_new_host_key, _confirm() if not as_json else None)
    files = carry.BrokerFiles(ca, cert, key, ca_key)
    for name in names:
        _check_ssh(fleet, name)
        files.check(name)

    job = _Enrolling(
        here, fleet, files, carry.hardware(hardware), asked_key, system, account,
        ask_sudo=ask_sudo, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip
    _each(names, job.enroll, as_json=as_json, key="enrolled")


@dataclass(frozen=True)
class _Enrolling:
    """What the command line asks for each of its devices."""

    here: project.Project
    fleet: inventory.Fleet
    files: carry.BrokerFiles
    hardware: list[Carried]
    host_key: HostKeyAsked
    system: bool | None
    account: str
    ask_sudo: bool
    dry_run: bool
    as_json: bool

    def enroll(self, name: str) -> dict[str, object]:
        """Enroll one device, note it here and in fleet.toml, and say what was done."""
        known, device = book.recall(self.here.folder, name), self.fleet.devices[name]
        _check_scope(name, known, self.system)
        address = _address(device.address, known, self.account)
        with render.working(name) as report:
            arrived = arrive(address, device.python, self.host_key, keep=not self.dry_run)
            with closing(arrived.remote) as remote:
                if arrived.pinned:  # a removal takes the pin back, also if all else fails
                    told = book.Remembered(address=address, root=device.root, pinned=arrived.pinned)
                    book.remember(self.here.folder, name, told)
                asked = self._asked(name, known, remote.public_key)
                done = drive.enroll(remote, asked, lambda step: report(f"{name}: {step}"))
        fleet_said = "" if self.dry_run else self._note(name, known, done, address, arrived)
        return _shown(
            *(done, arrived.fingerprint, fleet_said), as_json=self.as_json, dry_run=self.dry_run
        )

    def _asked(
        self, name: str, known: book.Remembered | None, push_key: str
    ) -> drive.EnrollRequest:
        device, system = self.fleet.devices[name], self.system
        root_of_trust = carry.trust_root(self.here.folder)
        return drive.EnrollRequest(
            device=name,
            python=device.python,
            root=known.root if known else device.root,
            units=_units(UNITS),
            user_units=_units(USER_UNITS),
            system=known.system if known and system is None else system,
            password=_password(name) if self.ask_sudo else None,
            push_key=push_key,
            door=data.path(DOOR).read_text("utf-8"),
            bootstrap=lambda facts: _bootstrap(self.here, facts),
            files=[*self.files.carried(name), *root_of_trust, *self.hardware],
            authority=self.files.authority(),
            dry_run=self.dry_run,
        )

    def _note(
        self,
        name: str,
        known: book.Remembered | None,
        done: drive.Enrolled,
        address: str,
        arrived: Arrived,
    ) -> str:
        """Note a device here and in fleet.toml; what was written there, or is to be written."""
        device = self.fleet.devices[name]
        push_address = with_account(address, PUSH_ACCOUNT)
        if done.system and (why := why_not_let_in(push_address, device.python)):
            render.warn(f"{name} takes no push: {why}; look at AllowUsers in its sshd_config")
        values = _fleet_values(device, done, address)
        told = book.Remembered(
            address=address,
            starts=done.starts,
            root=done.root,
            system=done.system,
            host_key=arrived.fingerprint,
            pinned=arrived.pinned or (known.pinned if known else None),
            before={key: getattr(device, key) or None for key in values}
            | (known.before if known else {}),
            facts=msgspec.structs.replace(done.facts, manifest="", config=""),
        )
        book.remember(self.here.folder, name, told)
        return _edit(self.here.folder / "fleet.toml", name, values)


def _check_trust(project_folder: Path) -> None:
    """Refuse to enroll a device that would trust the first one who pushes."""
    if not carry.trust_root(project_folder):
        raise UsageError(
            "this project has no root of trust, so it enrolls no device",
            f"there is no {project_folder / 'trust' / '1.root.json'}",
            "`edgekit init` makes keys and a root",
        )


def _check_scope(name: str, known: book.Remembered | None, system: bool | None) -> None:
    """Refuse a system install beside the account's own, and the other way round."""
    if known is None or known.system is None or system in (None, known.system):
        return
    kind = "a system install" if known.system else "the account's own"
    raise UsageError(
        f"{name} is enrolled already, as {kind}",
        f"its root is {known.root}; two agents would answer in one name",
        f"`edgekit remove {name}` first, then enroll it again",
    )


def remove(
    devices: Annotated[list[str], typer.Argument(help="Devices or groups of fleet.toml.")],
    keep_host_key: Annotated[
        bool, typer.Option("--keep-host-key", help="Leave the host key pinned.")
    ] = False,
    account: AsOption = "",
    ask_sudo: AskSudoOption = False,
    dry_run: DryRunOption = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take edgekit off a device: agent, models, prompts, units, accounts, root. Nothing stays.

    \b
    Example:  edgekit remove pi-1
    """
    here = project.find(project_folder)
    fleet = here.fleet()
    names = fleet.select(devices)
    for name in names:
        _check_ssh(fleet, name)

    def one(name: str) -> dict[str, object]:
        known = book.recall(here.folder, name)
        device = fleet.devices[name]
        address = _address(device.address, known, account)
        asked = drive.EnrollRequest(
            name, device.python, known.root if known else device.root, _units(UNITS),
            _units(USER_UNITS),
            system=known.system if known else None,
            password=_password(name) if ask_sudo else None, dry_run=dry_run,
        )  # fmt: skip
        try:
            arrived = arrive(address, device.python, HostKeyAsked())
        except UnreachableError as error:
            raise UnreachableError(error.what, error.why, _left(known, name)) from None
        with closing(arrived.remote) as remote, render.working(f"{name}: remove"):
            done = drive.remove(remote, asked, known.system if known else None)
        if not dry_run and known:
            if known.pinned and not keep_host_key:
                unpin(Path(known.pinned[0]), known.pinned[1])
            _edit(here.folder / "fleet.toml", name, known.before)
            book.forget(here.folder, name)
        for line in done.plan if dry_run else done.gone:
            if not as_json:
                render.say(f"{name}  {line}")
        if not as_json and not dry_run:
            render.say(f"{name} is removed; take [devices.{name}] out of fleet.toml if it is gone")
        return msgspec.to_builtins(done)  # type: ignore[no-any-return]  # a struct becomes a dict

    _each(names, one, as_json=as_json, key="removed")


def _each(
    names: list[str], one: Callable[[str], dict[str, object]], *, as_json: bool, key: str
) -> None:
    """Every device; one that fails does not stop the others."""
    done: list[dict[str, object]] = []
    failed: dict[str, EdgekitError] = {}
    for name in names:
        try:
            done.append(one(name))
        except EdgekitError as error:
            if len(names) == 1:
                raise
            failed[name] = error
            render.complain(f"{name}: {error}")
    if as_json:
        errors = {name: error.to_dict() for name, error in failed.items()}
        render.print_json({key: done, "failed": errors})
    if failed:
        message = f"{len(failed)} of {len(names)} devices failed: {', '.join(failed)}"
        raise PartialError(message) if done else EdgekitError(message)


def _check_ssh(fleet: inventory.Fleet, name: str) -> None:
    if fleet.devices[name].address.startswith("local:"):
        raise UsageError(
            f"{name} is a folder of this machine, not a device",
            "nothing starts it after a reboot, and there is no account to enroll",
            f"`edgekit push {name}` starts it, `edgekit stop {name}` ends it",
        )


def _address(address: str, known: book.Remembered | None, account: str) -> str:
    """The address of the account that enrolls: a flag, else as at the last enrolment."""
    if account:
        return with_account(address, account)
    if known and account_of(address) == PUSH_ACCOUNT:
        return known.address
    return address


def _bootstrap(here: project.Project, facts: DeviceFacts) -> tuple[str, bytes] | None:
    """The agent of the newest bundle for a device; None where nothing is packed."""
    try:
        manifest = here.store.resolve(None).manifest
    except UsageError:
        return None
    runtime = manifest.runtime_for(facts.platform, facts.python)
    return bootstrap(here.store, manifest, runtime)


def _units(folder: str) -> dict[str, str]:
    """Every unit of a folder."""
    files = sorted(data.path(folder).iterdir())
    return {one.name: one.read_text("utf-8") for one in files if one.name.startswith("edgekit-")}


def _confirm() -> Callable[[str], bool] | None:
    """Asks on the terminal; None without one."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return questions.confirm


def _password(name: str) -> Callable[[], str] | None:
    if not sys.stdin.isatty():
        return None
    return lambda: questions.secret(f"sudo password on {name}")


def _fleet_values(
    device: inventory.Device, done: drive.Enrolled, address: str
) -> dict[str, object]:
    """The keys of fleet.toml that a push needs from now on."""
    values: dict[str, object] = {}
    if done.system and account_of(device.address) != PUSH_ACCOUNT:
        values["address"] = with_account(address, PUSH_ACCOUNT)
    broker = {**device.broker, **done.broker}
    if broker != device.broker:
        values["broker"] = broker
    return values


def _edit(path: Path, name: str, values: dict[str, object]) -> str:
    """Change a device's keys in fleet.toml; what was done, or what is left to do by hand."""
    if not values:
        return ""
    text = path.read_bytes().decode("utf-8")
    new = edited(text, name, values)
    if new is None:
        return f"write into fleet.toml, {by_hand(name, values)}"
    if new != text:
        rewrite(path, new.encode())
    return f"fleet.toml, {by_hand(name, values)}"


def _shown(
    done: drive.Enrolled, fingerprint: str, fleet_said: str, *, as_json: bool, dry_run: bool
) -> dict[str, object]:
    """Print a result as text, or give it for JSON."""
    if not as_json:
        for line in done.plan if dry_run else done.changed:
            render.say(f"{done.device}  {line}")
        for note in done.notes:
            render.say(f"{done.device}  {note}")
        if fleet_said:
            render.say(f"{done.device}  {fleet_said}")
        verb = "would be enrolled" if dry_run else "is enrolled" if done.changed else "stays"
        render.say(f"{done.device} {verb}: it starts {Starts(done.starts).words}")
        if done.ready and not dry_run:
            seen = "WATCHDOG seen" if done.watchdog else "no WATCHDOG yet"
            render.say(f"{done.device}  unit {done.ready}, {seen}")
    if done.starts == Starts.NOTHING.value:
        linger = (
            "Enroll it with an account that has sudo, or have its administrator run "
            f"`loginctl enable-linger {done.account}` or install cron"
        )
        way = "Install and start cron there" if done.account == "root" else linger
        render.warn(
            f"{done.device} will not come back after a reboot: {'; '.join(done.notes)}. {way}; "
            "then enroll again"
        )
    told: dict[str, object] = msgspec.to_builtins(done, enc_hook=str)
    return told | {"host_key": fingerprint, "fleet": fleet_said}


def _left(known: book.Remembered | None, name: str) -> str:
    """What stays on a device that cannot be reached, and how it goes."""
    where = f"{known.root} ({known.starts})" if known and known.starts else "its root"
    return (
        f"nothing was removed: {where} is still there. Try again when it is on; a device that is "
        f"lost keeps its keys, so revoke its broker account, then take {name} out of fleet.toml"
    )

"""Enrolls one device and removes one: pins, looks, decides, performs, and looks again."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.commands import probe
from edgekit.fleet.enroll.certificates import SigningAuthority
from edgekit.fleet.enroll.decide import (
    check_own,
    enroll_plan,
    is_system,
    record_file,
    remove_plan,
)
from edgekit.fleet.enroll.hands import Hands, Performed, explain
from edgekit.fleet.enroll.values import (
    BROKER_FOLDER,
    SERVICE,
    SYSTEM_ROOT,
    Bootstrap,
    Carried,
    EnrollPlan,
    Starts,
    Step,
    Surroundings,
    Wish,
    file,
)
from edgekit.fleet.facts import PROBE, DeviceFacts, configured_name, parse_facts
from edgekit.fleet.link.local import Remote

READY_SECONDS = 180.0
ENROLL_AGAIN = "correct it, then enroll again: what is done stays, and `edgekit remove` undoes it"


@dataclass
class EnrollRequest:
    """What a user asks of an enrolment.

    Attributes:
        system: True or False as a flag says; None: what the device allows.
        root: as in fleet.toml; empty for the default.
        password: asks for the sudo password; None where there is no terminal or no wish for it.
        authority: signs the key that the device makes; None: it makes none.
    """

    device: str
    python: str
    root: str
    units: dict[str, str]
    user_units: dict[str, str]
    system: bool | None = None
    password: Callable[[], str] | None = None
    push_key: str = ""
    door: str = ""
    bootstrap: Callable[[DeviceFacts], tuple[str, bytes] | None] | None = None
    files: list[Carried] = field(default_factory=list)
    authority: SigningAuthority | None = None
    dry_run: bool = False


class Enrolled(msgspec.Struct, frozen=True):
    """The result of an enrolment.

    Attributes:
        changed: the words of the steps that changed something.
        ready: READY of the unit: `active`, or the state that it has; empty without a release.
        broker: keys of the broker that name carried files, with their paths on the device.
    """

    device: str
    starts: str
    root: str
    system: bool
    account: str
    changed: list[str]
    plan: list[str]
    notes: list[str]
    facts: DeviceFacts
    ready: str = ""
    watchdog: bool = False
    broker: dict[str, str] = {}


class Arrival:
    """One account of one device, looked at.

    Raises:
        EdgekitError: its Python does not run, or the account cannot be looked at.
    """

    def __init__(self, remote: Remote, asked: EnrollRequest) -> None:
        self.remote = remote
        self.asked = asked
        done = remote.run(probe(asked.python, asked.root), PROBE.read_bytes())
        if done.code != 0:
            raise EdgekitError(
                f"{asked.device}: {asked.python} does not run on the device",
                done.stderr.decode("utf-8", "replace").strip()[-300:],
                "install python3 (3.11 or newer) on the device, or set python= in fleet.toml",
            )
        self.facts = parse_facts(done.stdout)
        self.hands = Hands(remote, self.facts.executable)
        self.root = PurePosixPath(self.facts.root)
        self.found = self._look(self.hands, self.root, system=False)
        self.system = False
        self.bootstrap: Bootstrap | None = None

    def _look(self, hands: Hands, root: PurePosixPath, *, system: bool) -> Surroundings:
        told = hands.look(str(root), str(record_file(root, system=system)), self.facts.home)
        try:
            return msgspec.json.decode(told, type=Surroundings)
        except msgspec.MsgspecError as error:
            raise EdgekitError(
                f"{self.asked.device}: a look told something else", str(error)
            ) from error

    def decide_scope(self, *, default: bool | None) -> None:
        """Decide between a system install and the account's own, and become root for the former.

        Raises:
            UsageError: a system install is asked for and not possible.
        """
        found, asked = self.found, self.asked
        password = ""
        wants = asked.system if asked.system is not None else default
        if wants and found.uid and found.no_sudo and found.has_sudo and asked.password:
            password = asked.password()
            found = msgspec.structs.replace(found, no_sudo="")
        told = bool(asked.root) and PurePosixPath(asked.root) != SYSTEM_ROOT
        self.system = is_system(found, wants, told, bool(self.facts.current or found.made))
        if not self.system:
            return
        self.root = PurePosixPath(asked.root or str(SYSTEM_ROOT))
        if not self.root.is_absolute():
            raise UsageError(
                f"{asked.device}: a system install needs an absolute root",
                f"fleet.toml has root = {asked.root!r}",
                f"leave it out: then it is {SYSTEM_ROOT}",
            )
        self.hands = Hands(
            *(self.remote, self.facts.executable), root=True, uid=found.uid, password=password
        )
        self.found = self._look(self.hands, self.root, system=True)

    def wish(self) -> Wish:
        """What the plan is made for."""
        asked = self.asked
        return Wish(
            device=asked.device,
            root=self.root,
            python=self.facts.executable,
            system=self.system,
            units=asked.units if self.system else asked.user_units,
            push_key=asked.push_key if self.system else "",
            door=asked.door,
            bootstrap=self.bootstrap,
            files=tuple(asked.files),
            make_key=asked.authority is not None,
        )

    def carry_bootstrap(self, report: Callable[[str], None]) -> str:
        """Bring the agent that takes the first push; why not, or empty.

        Through the door of a system install no agent comes: only root brings one.
        """
        if not self.system or self.found.has_door or self.asked.bootstrap is None:
            return ""
        made = self.asked.bootstrap(self.facts)
        if made is None:
            return "no bundle is packed yet, so it takes no push: pack one, then enroll again"
        name, tar = made
        source = f"{self.found.account_home}/.edgekit-bootstrap-{name}.part"
        self.bootstrap = Bootstrap(name, len(tar), source)
        if self.asked.dry_run:
            return ""
        report("first agent")
        have = self.found.parts.get(source, 0)
        with tempfile.NamedTemporaryFile(prefix="edgekit-bootstrap-") as local:
            local.write(tar)
            local.flush()
            offset = have if have <= len(tar) else 0
            self.remote.append(Path(local.name), source, offset, lambda _: None)
        return ""

    def try_linger(self) -> None:
        """Have the account linger, and look again: only then is a user unit a way back."""
        if self.system or self.found.no_systemd or self.found.linger:
            return
        if self.asked.dry_run:
            return
        begin = enroll_plan(self.found, self.wish()).steps[0]
        linger = Step("linger", "loginctl enable-linger", {"on": True})
        record = str(record_file(self.root, system=False))
        tried = self.hands.perform(record, (begin, linger))
        self.found = self._look(self.hands, self.root, system=False)
        if tried.failed is not None:
            why = f"linger is refused: {tried.why.rpartition(': ')[2] or tried.why}"
            self.found = msgspec.structs.replace(self.found, no_user_systemd=why)


def enroll(remote: Remote, asked: EnrollRequest, report: Callable[[str], None]) -> Enrolled:
    """Make an account a device that comes back after a reboot.

    Raises:
        UsageError: what is asked for is not possible there; says why.
        EdgekitError: a step failed; the steps before it stay, and enrolling again goes on.
    """
    report("look")
    arrival = Arrival(remote, asked)
    arrival.decide_scope(default=None)
    if arrival.system and not asked.push_key:
        raise UsageError(
            f"{asked.device}: there is no key for the account that takes pushes",
            "a certificate let us in, and edgekit-push takes a plain key",
            "log in with a key in place of a certificate, or use --user",
        )
    if asked.authority is not None and arrival.found.no_openssl:
        raise EdgekitError(
            f"{asked.device}: the device cannot make a key",
            f"its openssl does not run: {arrival.found.no_openssl}",
            "install openssl there, or make the key here: `--cert FILE --key FILE`",
        )
    arrival.try_linger()
    missing = arrival.carry_bootstrap(report)
    wish = arrival.wish()
    plan = enroll_plan(arrival.found, wish)
    if asked.dry_run and plan.starts is Starts.USER and not arrival.found.linger:
        missing = "a dry run does not try linger; where it is refused, cron is next"
    performed = Performed([], None, "")
    if not asked.dry_run:
        report("enroll")
        performed = arrival.hands.perform(plan.record, plan.steps)
        explain(performed, plan.steps, ENROLL_AGAIN)
    changed = [
        step.words for step, one in zip(plan.steps, performed.done, strict=False) if one.changed
    ]
    if asked.authority is not None and not asked.dry_run:
        changed += _sign(arrival, plan, performed)
    ready, watchdog = "", False
    if arrival.found.has_release and not asked.dry_run:
        report("wait for READY")
        ready, watchdog = wait_ready(remote, plan.starts)
    return Enrolled(
        device=asked.device,
        starts=plan.starts.value,
        root=str(wish.root),
        system=wish.system,
        account=arrival.found.user,
        changed=changed,
        plan=[step.words for step in plan.steps],
        notes=[*plan.notes, *filter(None, [missing])],
        facts=arrival.facts,
        ready=ready,
        watchdog=watchdog,
        broker=_broker_files(wish),
    )


def _sign(arrival: Arrival, plan: EnrollPlan, performed: Performed) -> list[str]:
    """Sign what the device asks for, and carry the certificate there."""
    authority, name = arrival.asked.authority, arrival.asked.device
    number = next(n for n, step in enumerate(plan.steps) if step.do == "key")
    told = json.loads(performed.done[number].said)
    assert authority is not None
    now = datetime.datetime.now(datetime.UTC)
    made = authority.certificate_for(name, told["request"], told["certificate"], now)
    owner = str(plan.steps[number].values["account_of"])
    path = arrival.root / BROKER_FOLDER / "client.crt"
    steps = (file(path, made, 0o600, owner),)
    done = arrival.hands.perform(plan.record, steps)
    explain(done, steps, ENROLL_AGAIN)
    return [steps[0].words] if done.done[0].changed else []


def _broker_files(wish: Wish) -> dict[str, str]:
    """The broker's keys whose files lie on the device now."""
    names = {"ca.crt": "ca_file", "client.crt": "cert_file", "client.key": "key_file"}
    carried = {one.name.name for one in wish.files if one.name.parent == BROKER_FOLDER}
    if wish.make_key:
        carried |= {"client.crt", "client.key"}
    folder = wish.root / BROKER_FOLDER
    return {key: str(folder / name) for name, key in names.items() if name in carried}


def wait_ready(remote: Remote, starts: Starts) -> tuple[str, bool]:
    """How the unit stands once it said READY, and whether a WATCHDOG was seen since."""
    if starts not in (Starts.SYSTEM, Starts.USER):
        return "", False
    scope = ("--user",) if starts is Starts.USER else ()
    argv = ("systemctl", *scope, "show", "-p", "ActiveState,WatchdogTimestampMonotonic", SERVICE)
    deadline = time.monotonic() + READY_SECONDS
    while True:
        out = remote.run(argv).stdout.decode("utf-8", "replace").split()
        told = dict(line.split("=", 1) for line in out if "=" in line)
        state = told.get("ActiveState", "unknown")
        fed = told.get("WatchdogTimestampMonotonic", "0") not in ("", "0")
        if state not in ("activating", "reloading") or time.monotonic() > deadline:
            return state, fed
        time.sleep(0.5)


class Removed(msgspec.Struct, frozen=True):
    """The result of a removal: the words of what was there and is gone."""

    device: str
    root: str
    gone: list[str]
    plan: list[str]


def remove(remote: Remote, asked: EnrollRequest, was_system: bool | None) -> Removed:
    """Take a device back: nothing of edgekit stays there.

    Args:
        remote: the connection, to the account that enrolled the device.
        asked: the device; its settings of an enrolment are not read.
        was_system: what this controller remembers of its enrolment; None: nothing.

    Raises:
        UsageError: it was a system install, and this account is not root; or it is another device.
        EdgekitError: a step failed; removing again goes on.
    """
    arrival = Arrival(remote, asked)
    default = was_system
    if default is None and not (arrival.facts.current or arrival.found.made):
        default = (not arrival.found.no_sudo and not arrival.found.no_systemd) or None
    arrival.decide_scope(default=default)
    check_own(arrival.found.made, configured_name(arrival.facts), asked.device)
    names = list(asked.units if arrival.system else asked.user_units)
    plan = remove_plan(arrival.found, arrival.root, names, system=arrival.system)
    words = [step.words for step in plan.steps]
    if asked.dry_run:
        return Removed(asked.device, str(arrival.root), [], words)
    performed = arrival.hands.perform(plan.record, plan.steps)
    explain(performed, plan.steps, "correct it, then run `edgekit remove` again")
    gone = [step.words for step, one in zip(plan.steps, performed.done, strict=True) if one.changed]
    return Removed(asked.device, str(arrival.root), gone, words)

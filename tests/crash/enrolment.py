"""`edgekit enroll` and `edgekit remove` on a machine of one folder, with each fault at each call.

The plans are the real ones and so are the scripts that perform them. Commands of the machine
(crontab, systemctl, openssl) are a few lines here that work on the same folder; with the real ones
they are tested in `tests/system/test_enroll.py`, and killed in `test_real_enrolment.py`.

After a fault both ways have to be open: to enroll again ends as if nothing had happened, and to
remove leaves the machine as it was before.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from unittest import mock

from edgekit.errors import EdgekitError
from edgekit.fleet.enroll import decide, look, make, perform, record, unmake
from edgekit.fleet.enroll.values import Carried, EnrollPlan, Surroundings, Wish
from tests.crash.disk.calls import ALLOCATE, EIO, ENOSPC, READS, TORN, Call, KilledError
from tests.crash.disk.durable import Image, Ledger, image_of
from tests.crash.disk.shim import Shim

UNITS = {"edgekit-agent.service": "[Install]\nWantedBy=multi-user.target\n"}
FILES = (
    Carried(PurePosixPath("etc/broker/ca.crt"), b"a certificate"),
    Carried(PurePosixPath("etc/trust/root.json"), b'{"signed": 1}', keep=True),
)


@dataclass(frozen=True)
class Kind:
    """An enrolment: of the system or of the account, with cron or without."""

    name: str
    system: bool
    cron: bool = False
    make_key: bool = False


KINDS = (
    Kind("detached", system=False),
    Kind("cron", system=False, cron=True, make_key=True),
    Kind("system", system=True, make_key=True),
)


class Machine:
    """A machine that is one folder.

    Args:
        place: the folder.
        kind: of its enrolment.
    """

    def __init__(self, place: Path, kind: Kind) -> None:
        self.place, self.kind = place, kind
        self.root = place / ("var/lib/edgekit" if kind.system else "home/edgekit")
        self.shim: Shim | None = None  # counts the calls of edgekit alone
        self._cron = place / "spool" / "crontab"

    def make(self) -> None:
        """As it is before anything of edgekit."""
        for name in ("home", "etc/systemd/system", "usr/local/lib", "var/lib", "spool", "systemd"):
            (self.place / name).mkdir(parents=True)
        if self.kind.cron:
            self._cron.write_text("0 5 * * * backup\n")
            self._cron.chmod(0o600)

    # --- its commands -----------------------------------------------------------------------
    def run(self, *argv: str, stdin: bytes = b"", fine: tuple[int, ...] = (0,)) -> str:
        """As `record.run`: another process, which comes to its end."""
        assert fine == (0,)
        if self.shim is None:
            return self._command(argv, stdin)
        if self.shim.dead:
            raise KilledError
        self.shim._inside = True
        try:
            return self._command(argv, stdin)
        finally:
            self.shim._inside = False
            if self.shim.ledger is not None:
                self.shim.ledger.changed_elsewhere()

    def _command(self, argv: tuple[str, ...], stdin: bytes) -> str:
        match argv:
            case ("crontab", "-l"):
                return self._cron.read_text() if self._cron.exists() else ""
            case ("crontab", "-"):
                new = self._cron.with_name("new")
                new.write_bytes(stdin)
                new.chmod(0o600)  # whatever umask a verb in this process has set
                new.replace(self._cron)
            case ("crontab", "-r"):
                self._cron.unlink()
            case ("systemctl", "--system", _, *words):
                return self._systemctl(words)
            case ("openssl", *_):
                return "made by openssl\n"
            case _:
                raise AssertionError(argv)
        return ""

    def _systemctl(self, words: list[str]) -> str:
        unit = words[-1]
        enabled, active = (self.place / "systemd" / f"{unit}.{one}" for one in ("wants", "runs"))
        match words[0]:
            case "show":
                there = (self.place / "etc/systemd/system" / unit).exists()
                return (
                    f"LoadState={'loaded' if there else 'not-found'}\nNeedDaemonReload=no\n"
                    f"UnitFileState={'enabled' if enabled.exists() else 'disabled'}\n"
                    f"ActiveState={'active' if active.exists() else 'inactive'}\nMainPID=0\n"
                )
            case "enable" | "start":
                (enabled if words[0] == "enable" else active).touch()
            case "disable" | "stop":
                (enabled if words[0] == "disable" else active).unlink(missing_ok=True)
        return ""

    # --- what edgekit does ------------------------------------------------------------------
    def enroll(self) -> None:
        """Raises EdgekitError for a step that failed."""
        wish = Wish(
            device="box",
            root=PurePosixPath(self.root),
            python="/usr/bin/python3",
            system=self.kind.system,
            units=UNITS,
            push_key="ssh-ed25519 AAAA",
            door="#!/bin/sh\n",
            files=FILES,
            make_key=self.kind.make_key,
        )
        self._perform(decide.enroll_plan(self._found(), wish))

    def remove(self) -> None:
        """Raises EdgekitError for a step that failed."""
        root = PurePosixPath(self.root)
        system = self.kind.system
        self._perform(decide.remove_plan(self._found(), root, list(UNITS), system=system))

    def _found(self) -> Surroundings:
        system = self.kind.system
        made = decide.record_file(PurePosixPath(self.root), system=system)
        return Surroundings(
            user="root",
            uid=os.getuid(),
            home=str(self.place / "home"),
            has_sudo=False,
            no_sudo="",
            no_systemd="" if system else "it does not run",
            no_user_systemd="it does not run",
            linger=False,
            no_crontab="" if self.kind.cron else "there is no crontab",
            crontab=self.run("crontab", "-l"),
            cron_runs=self.kind.cron,
            accounts={},
            no_useradd="",
            no_openssl="",
            record=look.record(Path(made)),
            root_is_link=self.root.is_symlink(),
            root_owner=look.owner(self.root),
            has_release=False,
            has_door=False,
            account_home=str(self.place / "home"),
            parts={},
        )

    def _perform(self, plan: EnrollPlan) -> None:
        told = {"record": plan.record, "steps": [step.to_wire() for step in plan.steps]}
        stdin = io.TextIOWrapper(io.BytesIO(json.dumps(told).encode()))
        mask = os.umask(0o022)
        try:
            with (
                mock.patch.object(sys, "stdin", stdin),
                contextlib.redirect_stdout(io.StringIO()) as said,
            ):
                perform.main()
        finally:
            os.umask(mask)
        done = json.loads(said.getvalue())
        if done["failed"] is not None:
            raise EdgekitError(plan.steps[done["failed"]].words, done["why"])


REPORTED = (EdgekitError, OSError, record.StepFailedError)
ACTS: dict[str, Callable[[Machine], None]] = {"enroll": Machine.enroll, "remove": Machine.remove}


@contextlib.contextmanager
def at(place: Path, kind: Kind, image: Image | None = None) -> Iterator[Machine]:
    """A machine on a disk of its own, in place of this one."""
    machine = Machine(place, kind)
    below = PurePosixPath(place)
    if image is None:
        machine.make()
    else:
        image.write(place)
    names = {
        "AGENT_ACCOUNT": "root",
        "PUSH_ACCOUNT": "root",
        "SYSTEM_FOLDER": below / "etc/edgekit",
        "PUSH_HOME": below / "etc/edgekit/push",
        "DOOR": below / "usr/local/lib/edgekit/edgekit-door",
        "SYSTEM_UNITS": below / "etc/systemd/system",
    }
    with contextlib.ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch.object(decide, name, value))
        for module in (record, make, unmake):
            stack.enter_context(mock.patch.object(module, "run", machine.run, create=True))
        try:
            yield machine
        finally:
            shutil.rmtree(place, ignore_errors=True)


Ends = tuple[Image, Image]  # removed, enrolled


class Enrolments:
    """All cases.

    Attributes:
        keys: of the cases that ran.
        violations: by case.
    """

    def __init__(self, folder: Path) -> None:
        self.keys: set[str] = set()
        self.violations: dict[str, str] = {}
        self._place = folder / "machine"  # always the same: the record has paths
        self._checked: dict[object, str] = {}

    def run(self) -> None:
        """Every act of every kind with every fault."""
        for kind in KINDS:
            with at(self._place, kind) as machine:
                before = image_of(self._place)
                machine.enroll()
                enrolled = image_of(self._place)
                machine.remove()
                left = image_of(self._place)
            self.case(f"{kind.name} | remove", partial(_same, left, before, "removed"))
            for name, start in (("enroll", before), ("remove", enrolled)):
                self._act(kind, name, start, (before, enrolled))

    def _act(self, kind: Kind, name: str, start: Image, ends: Ends) -> None:
        calls, killed, lost = self._followed(kind, name, start)
        row = f"{kind.name} | {name}"
        for number, image in killed:
            self.case(f"{row} | {calls[number]} | kill", partial(self._check, kind, image, ends))
        for number, what, image in lost:
            self.case(f"{row} | {calls[number]} | {what}", partial(self._check, kind, image, ends))
        for number, call in enumerate(calls):
            faults = [EIO] if call.kind not in READS else []
            faults += [ENOSPC] if call.kind in ALLOCATE else []
            faults += [TORN] if call.kind == "write" else []
            for fault in faults:
                check = partial(self._fault, kind, name, start, ends, number, fault)
                self.case(f"{row} | {call} | {fault}", check)

    def case(self, key: str, check: Callable[[], None]) -> None:
        """Run one distinct case and note its violation."""
        assert key not in self.keys, f"{key} twice"
        self.keys.add(key)
        try:
            check()
        except AssertionError as error:
            self.violations[key] = str(error)

    def _followed(
        self, kind: Kind, name: str, start: Image
    ) -> tuple[list[Call], list[tuple[int, Image]], list[tuple[int, str, Image]]]:
        """The calls of an act, the disk in front of each, and what a power cut may leave."""
        killed: list[tuple[int, Image]] = []
        lost: list[tuple[int, str, Image]] = []
        seen: set[object] = set()
        with at(self._place, kind, start) as machine:
            ledger = Ledger(self._place)

            def after(number: int) -> None:
                for what, image in ledger.after_power_loss():
                    if image.key not in seen:
                        seen.add(image.key)
                        lost.append((number, what, image))

            shim = Shim(
                str(self._place),
                ledger=ledger,
                each=after,
                before=lambda number: killed.append((number, ledger.seen())),
            )
            machine.shim = shim
            with shim.at_work():
                ACTS[name](machine)
        return shim.calls, killed, lost

    def _fault(
        self,
        kind: Kind,
        name: str,
        start: Image,
        ends: Ends,
        number: int,
        fault: str,
    ) -> None:
        with at(self._place, kind, start) as machine:
            machine.shim = Shim(str(self._place), number, fault)
            with machine.shim.at_work(), contextlib.suppress(*REPORTED, KilledError):
                ACTS[name](machine)
            image = image_of(self._place)
        self._check(kind, image, ends)

    def _check(self, kind: Kind, image: Image, ends: Ends) -> None:
        """From here both ways are open."""
        key = (kind, image.key)
        if key not in self._checked:
            self._checked[key] = ""
            try:
                for name, end in zip(("remove", "enroll"), ends, strict=True):
                    with at(self._place, kind, image) as machine:
                        try:
                            ACTS[name](machine)
                        except (*REPORTED, ValueError) as error:
                            raise AssertionError(f"{name} after it fails: {error}") from error
                        _same(image_of(self._place), end, f"{name} after it")
            except AssertionError as error:
                self._checked[key] = str(error)
        assert not self._checked[key], self._checked[key]


def _same(found: Image, wanted: Image, what: str) -> None:
    if found.key == wanted.key:
        return
    there, due = _told(found), _told(wanted)
    lacks, more = sorted(due - there), sorted(there - due)
    raise AssertionError(f"{what}: lacks {lacks[:4]}, has {more[:4]}")


def _told(image: Image) -> set[tuple[str, bytes]]:
    files = {(name, image.nodes[number].data) for name, number in image.names}
    return files | {(f"{name}/", b"") for name in image.folders}


def run_all() -> Enrolments:
    """All cases, on a disk in memory."""
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(
            prefix="edgekit-enrol-", dir=shared if shared.is_dir() else None
        ) as name,
        mock.patch("os.fsync", lambda _: None),
        mock.patch("os.sync", lambda: None),
    ):
        made = Enrolments(Path(name))
        made.run()
    return made


if __name__ == "__main__":
    done = run_all()
    for case, why in done.violations.items():
        print(f"{case}: {why}")
    print(f"{len(done.keys)} cases, {len(done.violations)} violations")

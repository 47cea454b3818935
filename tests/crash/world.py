"""Releases of a few bytes, a controller that pushes them, and a supervisor that needs no process.

Everything on the device is the real code but two things. `Simulated` stands for the supervisor's
process: it performs the effects of the real `Trial` on the real disk and starts no agent, but looks
whether one could answer. And a push calls the agent's verbs in this process.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from edgekit.agent import __main__ as agent
from edgekit.agent.release import stopped
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor import choose
from edgekit.agent.release.trial import disk
from edgekit.agent.release.trial.demands import CRASH_LIMIT
from edgekit.agent.release.trial.events import (
    AgentCrashed,
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    CountTry,
    Demands,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    OnDisk,
    Reported,
    RetryDue,
    StartAgent,
    StopsHeld,
    TimePassed,
    TryUnrecorded,
)
from edgekit.agent.release.trial.machine import Trial
from edgekit.core.config import parse_known_agent_config
from edgekit.core.digest import Digest
from edgekit.core.golden import TrialReport
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError, VerificationError
from tests.crash.bundles import BAD_PORT, Bundle
from tests.crash.disk.calls import FULL, READ_ONLY, KilledError
from tests.crash.signing import Project

NOW = 1_796_000_000.0  # Unix seconds; the clock of every case but those of the clock
PARSER = agent._parser("")
TRIAL_SECONDS = 9.0
BROKER_LOOKS = 20  # then the broker is there again


@dataclass
class World:
    """One device and its controller.

    Attributes:
        root: the device's folder.
        bundles: all that the controller knows.
        project: signs them.
        moment: of the project, which metadata it has.
        failing: releases that end as soon as they start under this configuration.
        answered: releases with the configuration under which they have answered.
        running: what the simulated agent runs.
        own: what its supervisor found on the disk.
        broker_down: no agent on trial reaches the broker.
        unstartable: no supervisor can start but for a release that has answered.
        stops_at: before how many effects of supervisors the device goes down; None: never.
    """

    root: Root
    bundles: dict[Digest, Bundle]
    project: Project
    failing: set[tuple[Digest, bytes]] = field(default_factory=set)
    answered: set[tuple[Digest, bytes]] = field(default_factory=set)
    running: tuple[Digest, bytes] | None = None
    own: OnDisk | None = None
    broker_down: bool = False
    unstartable: bool = False
    stops_at: int | None = None
    moment: str = ""
    clock: float = NOW
    seconds: float = 0.0  # of the monotonic clock
    _looks: int = 0  # at an agent that does not reach the broker

    def sleep(self, seconds: float) -> None:
        """Nobody waits for real."""
        self.seconds += seconds
        assert self.seconds < 10_000, "it waits for ever"

    # --- the device -------------------------------------------------------------------------
    def power_on(self) -> None:
        """The service manager starts a supervisor, unless an operator stopped the device."""
        self.running = self.own = None
        if stopped.since(self.root) is None:
            self.boot()

    def boot(self, retry: Digest | None = None, *, crashes: bool = False) -> None:  # noqa: PLR0912  a table
        """A supervisor is started, and comes to its end.

        Args:
            retry: an unproven release that is due once the agent runs.
            crashes: whether the agent then ends again and again.
        """
        self.running = self.own = None
        self.root.ready_file.unlink(missing_ok=True)
        machine = Trial()
        events: list[Event] = [self._found()]
        unrecorded = ""
        while True:
            event = events.pop(0) if events else self._look(machine)
            for effect in machine.handle(event, self.seconds):
                if self.stops_at is not None:
                    if not self.stops_at:
                        raise KilledError
                    self.stops_at -= 1
                match effect:
                    case StartAgent() if unrecorded:
                        events.append(TryUnrecorded(unrecorded))
                        unrecorded = ""
                    case StartAgent():
                        self._start_agent(tried=False)
                        demands = Demands(was_connected=not self.broker_down)
                        events.append(AgentStarted(TRIAL_SECONDS, demands))
                    case EndAgent():
                        self.running = None
                        events.append(AgentEnded("it was told to"))
                    case HoldStops():
                        events.append(StopsHeld())
                    case BecomeSuccessor():
                        machine, events = Trial(), [self._found()]
                    case KeepRunning() if retry is not None:
                        self._start_agent(tried=True)
                        events.append(RetryDue(retry))
                        retry = None
                    case KeepRunning() if crashes:
                        crashes = False
                        events.append(AgentCrashed(CRASH_LIMIT, "it crashed"))
                    case KeepRunning():
                        if self.running is None:
                            self._start_agent(tried=True)
                        self.own = self._found()
                        return
                    case EndSupervisor():
                        return
                    case _:
                        why = disk.perform_on_full(self.root, effect)
                        if isinstance(effect, CountTry):
                            unrecorded = why

    def tick(self) -> None:
        """The running supervisor looks whether `current` is its own; else it is the successor."""
        if self.running is None or self.own is None:
            return
        try:
            with self.root.switching():
                found, own = self._found(), self.own
        except OSError:  # as `Watch._check_current`
            return
        if (found.release, found.state, found.tries) != (own.release, own.state, own.tries):
            self.boot()

    def _found(self) -> OnDisk:
        return disk.found(self.root)

    def _start_agent(self, *, tried: bool) -> None:
        """An agent starts; one that is not on trial must have answered before."""
        release = self.root.linked(self.root.current)
        assert release is not None
        config = self.root.agent_config.read_bytes()
        row = Releases(self.root.path).get(release)
        if row is not None and row.state == ReleaseState.TRIAL:
            back = self.root.linked(self.root.previous) not in (None, release)
            back = back or self.root.good_config.exists()
            # without a way back nothing else could run
            require(
                row.tries > 0 or not back,
                "an agent on trial starts before the try is on record",
            )
        else:
            require(
                (release, config) in self.answered,
                f"{self.name(release)} starts without a trial under what it never answered with",
            )
        self.running, self._looks = (release, config), 0
        if tried and self._agent_answers():
            self._says_ready()

    def _says_ready(self) -> bool:
        """The agent writes its ready file; a full disk keeps it from that, and it goes on."""
        with suppress(OSError):
            self.root.ready_file.write_text("{}")
        return self.root.ready_file.exists() and self.root.ready_file.read_text() == "{}"

    def _look(self, machine: Trial) -> Event:
        assert self.running is not None, f"nothing runs, and the machine waits: {machine}"
        self.seconds += TRIAL_SECONDS / 3
        assert self.seconds < 10_000, f"it waits for ever: {machine}"
        if not self._agent_answers():
            self.running = None
            return AgentEnded("this model cannot be loaded")
        if self.broker_down:
            self._looks += 1
            if self._looks == 1:
                return Reported(TrialReport(loaded=True))
            if self._looks < BROKER_LOOKS:
                return TimePassed()
        if not self._says_ready():
            return TimePassed()
        self.answered.add(self.running)
        return AgentReady()

    def _agent_answers(self) -> bool:
        assert self.running is not None
        release, config = self.running
        if self.running in self.failing or self.unsound(release):
            return False
        try:
            return parse_known_agent_config(config).broker.port != BAD_PORT
        except EdgekitError:
            return False

    def unsound(self, release: Digest) -> str:
        """What of a release's folder is not what its manifest says; empty if all is well."""
        bundle, root = self.bundles[release], str(self.root.path)
        folder = f"{root}/releases/{release.hex}"
        wanted = {f"{folder}/model/{title}": data for title, data in bundle.model.items()}
        for name in ("agent", "runtime"):
            try:
                layer = os.path.basename(os.readlink(f"{folder}/{name}"))
            except OSError as error:
                return str(error)
            if layer not in bundle.trees:
                return f"{name} is no tree of it"
            tree = f"{root}/trees/{layer}"
            wanted |= {f"{tree}/{file}": data for file, data in bundle.trees[layer].items()}
            for place, _, files in os.walk(tree):
                if more := {f"{place}/{file}" for file in files} - wanted.keys():
                    return f"{more} are no files of it"
        for path, data in wanted.items():
            try:
                with open(path, "rb", buffering=0) as file:
                    if file.read() != data:
                        return f"{path.removeprefix(root)} has other bytes"
            except OSError as error:
                return str(error)
        return ""

    def name(self, release: Digest | None) -> str:
        """A release for people: the start of its model."""
        if release is None:
            return "nothing"
        return next(iter(self.bundles[release].model.values())).decode()[:8]

    # --- the controller ---------------------------------------------------------------------
    def verb(self, *arguments: str, stdin: bytes = b"") -> Any:
        """Run a verb of the agent as `main` does, in this process."""
        parsed = PARSER.parse_args([*arguments, "--root", str(self.root.path)])
        told = io.TextIOWrapper(io.BytesIO(stdin))
        with mock.patch.object(sys, "stdin", told):
            return parsed.run(parsed)

    def push(self, release: Digest, config: bytes) -> None:
        """What `edgekit push` does, as `fleet.drive` does it."""
        missing = self.offer(release)
        for left in (1, 0):
            try:
                self.send(release, missing)
                self.verb("stage", release)
                break
            except VerificationError:
                if not left:
                    raise
                missing = self.offer(release)
        self.activate(release, config)

    def offer(self, release: Digest) -> list[dict[str, Any]]:
        """Offer a manifest; the blobs that the device lacks."""
        offer = self.project.offer(self.bundles[release].manifest, self.moment)
        answer = self.verb("stage", release, "--offer", stdin=offer)
        return list(json.loads(json.dumps(answer))["missing"])

    def send(self, release: Digest, missing: list[dict[str, Any]]) -> None:
        """Send the blobs, and have the device adopt each."""
        for blob in missing:
            digest, have = Digest.parse(blob["digest"]), int(blob["have"])
            data = self.bundles[release].blobs[digest]
            try:
                self.send_blob(digest, data, have)
            except VerificationError:
                if not have:
                    raise
                self.send_blob(digest, data, 0)

    def send_blob(self, digest: Digest, data: bytes, offset: int) -> None:
        """Append what is missing to the part, as the relay does, and have it adopted."""
        part = str(self.root.store.part_path(digest))
        flags = os.O_WRONLY | os.O_CREAT | (0 if offset else os.O_TRUNC)
        descriptor = os.open(part, flags, 0o600)
        try:
            middle = (offset + len(data)) // 2
            for start, end in ((offset, middle), (middle, len(data))):
                if end > start:
                    os.pwrite(descriptor, data[start:end], start)
        finally:
            os.close(descriptor)
        self.verb("stage", digest, "--adopt", str(len(data)))

    def activate(self, release: Digest, config: bytes) -> None:
        """Activate a staged release."""
        self.verb("activate", release, "--config", "-", stdin=config)


class ViolationError(AssertionError):
    """A device that is not as it must be."""


def require(holds: bool, what: str) -> None:
    """Raise `ViolationError` unless it holds."""
    if not holds:
        raise ViolationError(what)


class Simulated:
    """The supervisor of the world's device: its process is a call of `World.boot`."""

    world: World
    goes_down = False  # instead of the first start

    def __init__(self, root: Root) -> None:
        self._root = root

    def start(self) -> None:
        """Run the supervisor's trial to its end."""
        if self.goes_down:
            raise KilledError
        with unshimmed():
            self.world.boot()

    def reload(self) -> None:
        """The running supervisor becomes that of `current`, or one starts."""
        release = self._root.linked(self._root.current)
        known = {digest for digest, _ in self.world.answered}
        if self.world.unstartable and release not in known:
            raise EdgekitError("the agent's supervisor did not start", "no module named edgekit")
        if self.goes_down or self.world.running is None or self.world.own is None:
            self.start()
        else:  # SIGHUP: it looks whether `current` is still its own
            with unshimmed():
                self.world.tick()

    def stop(self) -> None:
        """The agent drains and ends."""
        with unshimmed():
            self.world.running = None
            self._root.ready_file.unlink(missing_ok=True)

    def pid(self) -> int | None:
        """Any number while an agent runs."""
        return 4242 if self.world.running else None


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """The verbs find the simulated supervisor of this world."""
    Simulated.world = world
    with mock.patch.object(choose, "supervisor_of", Simulated):
        yield


SHIMS: list[Any] = []  # the shim that is at work


@contextmanager
def unshimmed() -> Iterator[None]:
    """Calls of another process: the shim does not count them."""
    if not SHIMS:
        yield
        return
    shim = SHIMS[-1]
    if shim.fault in (FULL, READ_ONLY):  # it is the same disk
        was, shim.elsewhere = shim.elsewhere, True
        try:
            yield
        finally:
            shim.elsewhere = was
        return
    before, shim._inside = shim._inside, True
    try:
        yield
    finally:
        if shim.ledger is not None:
            shim.ledger.changed_elsewhere()
        shim._inside = before


REPORTED = (EdgekitError, OSError)  # what `agent.__main__` reports as JSON
NOT_REPORTED = (sqlite3.Error,)

"""Runs a rollout: what the machine asks for is done by hands, and what they find goes into the
journal, from which the machine takes it.

Nothing reaches the machine but by a row of the journal. So whatever runs the rollout next, after a
kill at any moment, has the same rollout before it. Orders (pause, resume, abort, rollback) are rows
that another process wrote; they are read at least every half second.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from edgekit.fleet.rollout.book import holding
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    AskQuality,
    AskVerdict,
    ClockSet,
    ClockTicked,
    GoBackOn,
    PauseOrdered,
    RolloutEffect,
    RolloutEvent,
    RunHook,
    StageOn,
    SwitchOn,
)
from edgekit.fleet.rollout.hands import RolloutHands
from edgekit.fleet.rollout.hook import GRACE_SECONDS
from edgekit.fleet.rollout.journal import RolloutJournal, RolloutRow
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase

QUALITY_SECONDS = 5.0  # between two questions for a device's score
ORDERS_SECONDS = 0.5  # between two looks for orders
CLOCK_SECONDS = 5.0  # by which the clock was set; less is its own error
STOP_SECONDS = 5.0  # for what is at work to break off; a connection that is just made may last
HOOK_STOP_SECONDS = STOP_SECONDS + GRACE_SECONDS  # a hook that we leave behind would run on
_LEFT_ALONE = (DeviceState.SOAKING, DeviceState.GOOD, DeviceState.FAILED, DeviceState.AWAY)

Told = Callable[[Rollout, RolloutRow], None]
Act = Callable[[], RolloutEvent | None]


def run(
    journal: RolloutJournal,
    hands: RolloutHands,
    told: Told,
    who: str,
    *,
    leave_soaking: bool = False,
    clock: Callable[[], float] = time.time,
    steady: Callable[[], float] | None = None,
) -> Rollout:
    """Run a rollout until nothing of it happens any more by itself; as its only controller.

    Args:
        journal: of a rollout that has begun.
        hands: acts on its devices, on at most `parallel` of the plan at one time.
        told: called with the rollout after each event, before what it asks for begins.
        who: user@host.
        leave_soaking: end when all that is left is to ask devices of the last wave, which answer,
            for the verdict of their soak.
        clock: Unix seconds.
        steady: seconds of a clock that nobody sets; None: the system's with `time.time`, else
            `clock`.

    Raises:
        EdgekitError: another process runs it, or its journal cannot be read.
        VerificationError: a row of the journal is not as it was written.
        KeyboardInterrupt: Ctrl-C; the rollout is then paused, and what was at work is broken off.
    """
    with holding(journal, who):
        if steady is None:
            steady = _since_boot if clock is time.time else clock
        runner = _Runner(journal, hands, told, clock, steady)
        try:
            runner.run(leave_soaking)
        except KeyboardInterrupt:
            runner.stop(PauseOrdered(who, "Ctrl-C"))
            raise
        except BaseException:
            runner.stop(None)
            raise
    return runner.rollout


def _since_boot() -> float:
    """It goes on while the machine sleeps, as devices do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Runner:
    """The rollout, the threads that work for it, and what they found."""

    def __init__(
        self,
        journal: RolloutJournal,
        hands: RolloutHands,
        told: Told,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._journal, self._hands, self._told, self._clock = journal, hands, told, clock
        self._steady = steady
        self._ahead = clock() - steady()
        plan, rows, _ = journal.read()
        self.rollout = Rollout(plan)
        for row in rows:
            self.rollout.handle(row.event, row.at)
        self._rows = len(rows)
        self._found: queue.SimpleQueue[tuple[str, RolloutEvent | BaseException | None]] = (
            queue.SimpleQueue()
        )
        self._asks: list[tuple[float, str]] = []
        self._scores: list[tuple[float, str]] = []  # when to ask which device for its score
        self._at_work: set[str] = set()  # devices, and "" for the hook
        self._busy: set[str] = set()  # those of them that have a thread, but for the hook
        self._waiting: deque[tuple[str, Act]] = deque()  # for a thread

    def run(self, leave_soaking: bool) -> None:
        """Take events until it is over."""
        self._begin(self.rollout.outstanding())
        while True:
            self._catch_up()
            if not self._at_work and self._ends(leave_soaking):
                return
            self._tick()
            try:
                name, found = self._found.get(timeout=self._wait_seconds())
            except queue.Empty:
                continue
            self._done(name)
            if isinstance(found, BaseException):
                raise found
            if found is None:
                heapq.heappush(self._scores, (self._clock() + QUALITY_SECONDS, name))
            else:
                self._write(found)

    def _clock_was_set(self) -> bool:
        """Write down that the clock was set: a soak lasts neither longer nor shorter by it."""
        step = self._clock() - self._steady() - self._ahead
        if abs(step) < CLOCK_SECONDS:
            return False
        self._ahead += step
        self._asks = [(at + step, name) for at, name in self._asks]
        self._scores = [(at + step, name) for at, name in self._scores]
        self._journal.append(ClockSet(step), self._clock())
        return True

    def _write(self, event: RolloutEvent) -> None:
        """Write an event down, after what the clock says of itself and of the windows."""
        self._clock_was_set()
        now = self._clock()
        for change in self.rollout.window_changes(now):
            self._journal.append(change, now)
        self._journal.append(event, now)

    def stop(self, order: RolloutEvent | None) -> None:
        """Break off what is at work, and write down why."""
        self._hands.stop()
        if order is not None:
            self._journal.append(order, self._clock())
            self._catch_up(begin=False)
        self._waiting.clear()
        hook = "" in self._at_work
        deadline = time.monotonic() + (HOOK_STOP_SECONDS if hook else STOP_SECONDS)
        left = self._busy | ({""} if hook else set())
        while left and (seconds := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                left.discard(self._found.get(timeout=seconds)[0])

    def _catch_up(self, begin: bool = True) -> None:
        """Hand the rows that are new to the machine, whoever wrote them."""
        for row in self._journal.since(self._rows):
            self._rows += 1
            effects = self.rollout.handle(row.event, row.at)
            self._told(self.rollout, row)  # first: what begins now has its own progress to tell
            if begin:
                device = getattr(row.event, "device", "")
                if device and not any(getattr(each, "device", "") == device for each in effects):
                    self._hands.let_go(device)
                self._begin(effects)

    def _begin(self, effects: tuple[RolloutEffect, ...]) -> None:
        for effect in effects:
            match effect:
                case AskVerdict(device, at):
                    heapq.heappush(self._asks, (at, device))
                case AskQuality(device):
                    heapq.heappush(self._scores, (self._clock(), device))
                case RunHook(wave, after):
                    self._start("", partial(self._hands.hook, wave, after))
                case StageOn(device):
                    self._start(device, partial(self._hands.stage, device))
                case SwitchOn(device):
                    self._start(device, partial(self._hands.switch, device))
                case GoBackOn(device, before):
                    self._start(device, partial(self._hands.go_back, device, before))

    def _start(self, name: str, act: Act) -> None:
        """Act in a thread, once fewer than `parallel` are at work on devices, and none on this one.

        A rollback may be ordered while its device is asked for its verdict or its score: both would
        speak over one connection, and each take the answer of the other.
        """
        self._at_work.add(name)
        if name and (name in self._busy or not self._has_room()):
            self._waiting.append((name, act))
        else:
            self._work(name, act)

    def _done(self, name: str) -> None:
        """An act has ended: those that wait have room."""
        self._busy.discard(name)
        if all(other != name for other, _ in self._waiting):
            self._at_work.discard(name)
        for _ in range(len(self._waiting)) if self._has_room() else ():
            waits = self._waiting.popleft()
            if waits[0] in self._busy or not self._has_room():
                self._waiting.append(waits)
            else:
                self._work(*waits)

    def _work(self, name: str, act: Act) -> None:
        def work() -> None:
            try:
                self._found.put((name, act()))
            except BaseException as error:  # a fault of ours: the main thread raises it
                self._found.put((name, error))

        if name:
            self._busy.add(name)
        threading.Thread(target=work, name=f"rollout {name}", daemon=True).start()

    def _tick(self) -> None:
        """Begin what is due by time."""
        if self._clock_was_set():
            return
        now = self._clock()
        while self._asks and self._asks[0][0] <= now and self._has_room():
            _, device = heapq.heappop(self._asks)
            if device not in self._at_work and self._is_asked(device):
                self._start(device, partial(self._hands.verdict, device))
        while self._scores and self._scores[0][0] <= now and self._has_room():
            _, device = heapq.heappop(self._scores)
            if device not in self._at_work and self.rollout.asks_quality_of(device):
                self._start(device, partial(self._hands.quality, device))
        wakes = self.rollout.wakes_at()
        if wakes is not None and wakes <= now:
            self._write(ClockTicked())

    def _has_room(self) -> bool:
        return len(self._busy) < self.rollout.plan.terms.parallel

    def _is_asked(self, device: str) -> bool:
        """Whether a device still owes its verdict."""
        return self.rollout.devices[device].state in (DeviceState.SOAKING, DeviceState.SWITCHING)

    def _wait_seconds(self) -> float:
        """Until something is due by time, or the next look for orders."""
        times = [self._asks[0][0]] if self._asks and self._has_room() else []
        if (wakes := self.rollout.wakes_at()) is not None:
            times.append(wakes)
        return max(0.0, min([ORDERS_SECONDS, *(at - self._clock() for at in times)]))

    def _ends(self, leave_soaking: bool) -> bool:
        """Whether nothing is left to do, or only what `leave_soaking` leaves."""
        if not self._found.empty():
            return False
        owed = any(self._is_asked(device) for _, device in self._asks)
        if self.rollout.over:
            return leave_soaking or not owed
        return (
            leave_soaking
            and owed
            and not self.rollout.plan.terms.hook_after
            and not self.rollout.plan.terms.quality
            and self.rollout.phase == RolloutPhase.RUNNING
            and self.rollout.wave + 1 == len(self.rollout.waves)
            and all(device.state in _LEFT_ALONE for device in self.rollout.devices.values())
        )

"""What a rollout does to devices that pull: it says what they shall run, and waits for their word.

Nobody connects to such a device. An act is a retained message and a report; a device that is off is
away, and the message waits for it at the broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import DesiredPayload, UpdatePayload
from edgekit.errors import EdgekitError, UnreachableError, VerificationError
from edgekit.fleet.drive import Event
from edgekit.fleet.pulling.desk import Heard, PullDesk
from edgekit.fleet.push import WHY_LETTERS
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    DeviceAnswers,
    DeviceAway,
    DeviceBack,
    DeviceFailed,
    DeviceGood,
    DeviceStaged,
    HookEnded,
    QualityTold,
    RolloutEvent,
    as_written,
)
from edgekit.fleet.rollout.hands import REASON_LETTERS, Pushed, understood
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase

ANSWER_SECONDS = 120.0  # from a desired state to the first word of a device that is connected
STALLED_SECONDS = 180.0  # of a transfer that reports no progress
VERDICT_SECONDS = 900.0  # of a switch, whose device is not connected for a while
ASK_AGAIN_SECONDS = 10.0
JOINED = ("good", "trial", "unproven", "switching")  # it runs the release, or is about to
STAGED = ("staged", "good", "trial", "unproven", "failed", "refused", "waiting")
JUDGED = ("good", "trial", "unproven", "failed", "refused", "waiting")


class PullHands:
    """Acts on devices that pull; see `RolloutHands`.

    Args:
        release: the release.
        name: what a person calls it.
        number: of the rollout.
        desk: an operator's connection to the broker.
        may_go_back: why a device may not go back to a release; empty: its metadata permits it.
        report: called with a device's name and its progress, by several threads.
        run_hook: runs the command of a hook.
        windows: the devices that may switch in a window alone.
        later: the rollout after this one that told a device what to run: that word stays.

    Attributes:
        done: what was done on a device, once it answers.
        failed: the error of a device that failed or is away.
    """

    def __init__(
        self,
        release: Digest,
        name: str,
        number: int,
        desk: PullDesk,
        may_go_back: Callable[[Digest], str],
        report: Callable[[str, Event], None],
        run_hook: Callable[[int, bool], HookEnded],
        windows: Collection[str] = (),
        later: Mapping[str, int] | None = None,
    ) -> None:
        self._release, self._name, self._number = release, name, number
        self._windows = windows
        self._later = later or {}
        self._desk, self._may_go_back = desk, may_go_back
        self._report, self.hook = report, run_hook
        self._began: dict[str, float] = {}
        self._total: dict[str, int] = {}
        self.done: dict[str, Pushed] = {}
        self.failed: dict[str, EdgekitError] = {}

    def stage(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        self._began.setdefault(device, time.monotonic())

        def act() -> RolloutEvent:
            order = self._say(device, self._release, switch=False)
            return self._told(device, self._answer(device, order, STAGED, ANSWER_SECONDS))

        return self._act(device, act)

    def switch(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""

        def act() -> RolloutEvent:
            self._report(device, Event("activate"))
            order = self._say(device, self._release, switch=True)
            try:
                return self._told(device, self._answer(device, order, JUDGED, ANSWER_SECONDS))
            except UnreachableError:
                self._hold(device)
                raise

        return self._act(device, act)

    def verdict(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""

        def act() -> RolloutEvent:
            try:
                heard = self._present(device)
            except UnreachableError:
                self._hold(device)  # its controller may have ended after it told it to switch
                raise
            update = heard.update
            if update is None or update.release != self._release:
                raise UnreachableError(f"{device}: it has not said anything of this release")
            return self._told(device, update)

        return self._act(device, act)

    def quality(self, device: str) -> QualityTold | None:
        """See `RolloutHands`: its status has it."""
        told = self._desk.heard(device).quality
        if told is None or told.release != self._release:
            return None
        return QualityTold(device, msgspec.structs.replace(told, why=told.why[:WHY_LETTERS]))

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        """See `RolloutHands`; a lower release needs a signed rollback entry."""

        def act() -> RolloutEvent:
            update = self._desk.heard(device).update
            current = update.current if update else ""
            if device in self._later or (current and current not in (self._release, before)):
                return DeviceBack(device)  # it runs another release by now, and keeps it
            if before is None:
                self._present(device)
                raise EdgekitError(f"{device}: it ran nothing before this rollout")
            if current == self._release and (why := self._may_go_back(before)):
                raise VerificationError(
                    f"{device}: a device that pulls goes back to what is signed for that alone",
                    why,
                    "`edgekit sign NAME:VERSION --rollback`, then `edgekit rollback` again",
                )
            self._report(device, Event("go back"))
            order = self._say(device, before, switch=True)
            told = self._answer(device, order, JUDGED, ANSWER_SECONDS)
            if told.state in ("good", "trial") and told.current == before:
                return DeviceBack(device)
            return self._told(device, told, release=before)

        return self._act(device, act)

    def let_go(self, device: str) -> None:
        """See `RolloutHands`; nothing is open to one device."""

    def stop(self) -> None:
        """See `RolloutHands`."""
        self._desk.stop()

    def leave_word(self, rollout: Rollout, devices: list[str]) -> list[str]:
        """Tell devices that are away how a rollout ended that is over.

        Where it is done they join when they come back, unless they may switch in a window alone:
        those stage it, and a resume switches them. Where it has gone back or was aborted,
        nothing is left to be done by them, except by those whose switch had begun. Those that
        joined meanwhile are told to go back where the rollout has gone back.

        Returns:
            What was said to whom that a person should know.

        Raises:
            EdgekitError: the broker does not take it.
        """
        short, said = self._release.short, []
        away = [name for name in devices if rollout.devices[name].state == DeviceState.AWAY]
        if rollout.phase in (RolloutPhase.BACK, RolloutPhase.ABORTED):
            for name in away:
                if rollout.devices[name].switched:
                    continue
                if (number := self._later.get(name)) is not None:
                    said.append(f"{name} was told otherwise by rollout {number}: that stays")
                    continue
                before = self._joined_from(name) if rollout.phase == RolloutPhase.BACK else None
                why = self._may_go_back(before) if before else ""
                if before is None or why:
                    self._desk.say(topics.desired_topic(name), None)
                else:
                    self._say(name, before, switch=True)
                    said.append(f"{name} joined late; it is told to run {before.short} again")
                if why:
                    said.append(f"{name} joined late and keeps {short}: {why}")
        if rollout.phase != RolloutPhase.DONE or rollout.plan.terms.stage_only:
            return said
        for name in away:
            if name in rollout.plan.windows:  # a message would have it switch at any time
                resume = f"`edgekit resume {self._number}` switches it in its window"
                said.append(f"{name} is off; when it comes back it stages {short}, and {resume}")
                continue
            self._say(name, self._release, switch=True)
            said.append(f"{name} is off; it is told to run {short}, and does when it comes back")
        return said

    def _joined_from(self, device: str) -> Digest | None:
        """What a device ran that has joined by itself; None: it has not, or does not say."""
        heard = self._desk.wait(
            device, lambda h: h if h.update is not None or self._desk.settled else None, 60.0
        )
        update = heard.update if heard else None
        if update is None or update.release != self._release or update.state not in JOINED:
            return None
        try:
            before = Digest.parse(update.before)
        except VerificationError:  # it ran nothing
            return None
        return None if before == self._release else before

    # --- one device ---------------------------------------------------------------------------
    def _act(self, device: str, act: Callable[[], RolloutEvent]) -> RolloutEvent:
        """Act; an error becomes an event."""
        self.failed.pop(device, None)
        try:
            with understood(device):
                return as_written(act())
        except EdgekitError as error:
            self.failed[device] = error
            reason = f"{error.what}: {error.why}" if error.why else error.what
            reason = reason.removeprefix(f"{device}: ")[:REASON_LETTERS]
            return (DeviceAway if error.retryable else DeviceFailed)(device, reason)

    def _hold(self, device: str) -> None:
        """Take back that a device that is away shall switch, where it may in a window alone.

        The message waits for it at the broker, and nobody knows when it comes back. One that has
        begun to switch goes on.
        """
        if device in self._windows:
            self._say(device, self._release, switch=False)

    def _say(self, device: str, release: Digest, *, switch: bool) -> int:
        order = self._desk.next_order(device)
        desired = DesiredPayload(str(release), self._name, self._number, order, switch)
        self._desk.say(topics.desired_topic(device), desired)
        return order

    def _present(self, device: str) -> Heard:
        heard = self._desk.wait(
            device, lambda h: h if h.present is not None or self._desk.settled else None, 60.0
        )
        if heard is None or not heard.present:
            raise _away(device, heard or Heard())
        return heard

    def _answer(
        self, device: str, order: int, ends: tuple[str, ...], seconds: float
    ) -> UpdatePayload:
        """Wait for a device's word about an order.

        Raises:
            UnreachableError: it is off, or says nothing, or no progress.
        """
        last: tuple[object, ...] = ()
        while True:

            def look(heard: Heard, last: tuple[object, ...] = last) -> Heard | None:
                update = heard.update
                mine = update if update is not None and update.order == order else None
                switching = mine is not None and mine.state == "switching"
                moved = mine is not None and _moved(mine) != last
                absent = heard.present is False or (heard.present is None and self._desk.settled)
                return heard if moved or (absent and not switching) else None

            heard = self._desk.wait(device, look, seconds)
            update = heard.update if heard else None
            if heard is None:
                said = self._desk.heard(device).update
                raise UnreachableError(
                    f"{device}: it is connected, and has not said what it made of this for "
                    f"{seconds:.0f} s",
                    said.reason if said is not None and said.order != order else "",
                )
            if update is None or update.order != order or _moved(update) == last:
                raise _away(device, heard)
            if update.state in ends:
                return update
            last = _moved(update)
            seconds = VERDICT_SECONDS if update.state == "switching" else STALLED_SECONDS
            if update.state == "fetching":
                self._total[device] = update.total
                self._report(device, Event("transfer", update.fetched, update.total))

    def _told(
        self, device: str, update: UpdatePayload, release: Digest | None = None
    ) -> RolloutEvent:
        """The event of a report."""
        match update.state:
            case "good":
                self._note(device, update)
                ran = update.before if release is None else ""
                return DeviceGood(device, Digest.parse(ran) if ran else None)
            case "trial" | "switching":
                self._note(device, update)
                return DeviceAnswers(device, update.soak_seconds or ASK_AGAIN_SECONDS)
            case "staged" if release is None:
                self._note(device, update)
                before = Digest.parse(update.before) if update.before else None
                return DeviceStaged(device, before)
            case "failed" | "refused":
                kind = VerificationError if update.state == "refused" else EdgekitError
                raise kind(f"{device}: {update.reason or update.state}", "", update.next)
        raise UnreachableError(f"{device}: {update.reason or update.state}", "", update.next)

    def _note(self, device: str, update: UpdatePayload) -> None:
        """Note what was done, for the command's output."""
        self.done[device] = Pushed(
            device=device,
            release=self._release,
            changed=update.before != self._release,
            blobs_sent=0,
            bytes_sent=0,
            transfer_seconds=0.0,
            seconds=time.monotonic() - self._began.get(device, time.monotonic()),
            state=update.state if update.state in ("good", "staged") else "trial",
            soak_seconds=None if update.state in ("good", "staged") else update.soak_seconds,
        )


def _moved(update: UpdatePayload) -> tuple[object, ...]:
    return update.order, update.state, update.fetched


def _away(device: str, heard: Heard) -> UnreachableError:
    if heard.present is None:
        return UnreachableError(
            f"{device}: the broker has never heard of it", "", "is it on, and is its name right?"
        )
    return UnreachableError(f"{device}: it is off, or not connected to the broker")

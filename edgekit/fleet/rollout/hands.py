"""What a rollout does to its devices: each act ends in an event for the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import msgspec

from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest
from edgekit.core.reading import UNREADABLE
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.drive import DeviceDriver, Event
from edgekit.fleet.held import LeaseHeldError
from edgekit.fleet.lease import Lease
from edgekit.fleet.plan import TrialVerdict
from edgekit.fleet.push import (
    WHY_LETTERS,
    ReleaseSource,
    Staged,
    activate_on,
    go_back_on,
    quality_of,
    stage_on,
    standing_of,
)
from edgekit.fleet.rollout.events import (
    ClockTicked,
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

REASON_LETTERS = 2000  # of an error, for the journal; a device may say megabytes
ASK_AGAIN_SECONDS = 5.0  # a device whose trial does not answer yet


class RolloutHands(Protocol):
    """Acts on one device at a time; several threads call it, each for another device.

    An act never raises an `EdgekitError`: what goes wrong on a device is an event.
    """

    def stage(self, device: str) -> RolloutEvent:
        """Bring the release: `DeviceStaged`, `DeviceFailed` or `DeviceAway`.

        A device that runs it already, and as it should, says so: `DeviceGood`, `DeviceAnswers`.
        """
        ...

    def switch(self, device: str) -> RolloutEvent:
        """Activate it: `DeviceAnswers`, `DeviceGood`, `DeviceFailed` or `DeviceAway`."""
        ...

    def verdict(self, device: str) -> RolloutEvent:
        """Ask how it stands: as `switch`, or `DeviceStaged` if no switch has begun there."""
        ...

    def quality(self, device: str) -> QualityTold | None:
        """Ask how the release compares with the one before it; None: it does not know it yet."""
        ...

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        """Go back to `before`: `DeviceBack`, `DeviceFailed` or `DeviceAway`."""
        ...

    def hook(self, wave: int, after: bool) -> HookEnded:
        """Run the operator's command before or after a wave, counted from 1."""
        ...

    def let_go(self, device: str) -> None:
        """Close what is still open to a device that is not needed soon."""
        ...

    def stop(self) -> None:
        """Break off what is at work, from another thread; the acts end with an event."""
        ...


class Pushed(msgspec.Struct, frozen=True):
    """What a rollout did on one device; times in seconds.

    `state` is `good`, `trial`, or `staged` where nothing was switched yet. `soak_seconds` is what
    the release has yet to run without a crash, None if it is good;
    `silent_seconds` is for how long nobody answered; None if the device does not say it. `slower`
    is why the bytes took a slower way than a pull.
    """

    device: str
    release: Digest
    changed: bool
    blobs_sent: int
    bytes_sent: int
    transfer_seconds: float
    seconds: float
    warnings: list[str] = []
    state: str = "good"
    soak_seconds: float | None = None
    silent_seconds: float | None = None
    slower: str = ""


class PushHands:
    """Acts on real devices.

    Args:
        release: the release.
        source: what brings it; None: nothing is staged, because the rollout goes back.
        connect: connects to a device and probes it.
        config_of: the `agent.toml` of a device.
        report: called with a device's name and its progress, by several threads.
        run_hook: runs the command of a hook.
        lease: how it holds a device; None: it holds none by name.

    Attributes:
        done: what was done on a device, once it answers.
        failed: the error of a device that failed or is away.
        enrolled: whether a device is enrolled, once it was connected to.
    """

    def __init__(
        self,
        release: Digest,
        source: ReleaseSource | None,
        connect: Callable[[str], DeviceDriver],
        config_of: Callable[[str], AgentConfig],
        report: Callable[[str, Event], None],
        run_hook: Callable[[int, bool], HookEnded],
        lease: Lease | None = None,
    ) -> None:
        self._release, self._source = release, source
        self._connect, self._config_of = connect, config_of
        self._report, self.hook = report, run_hook
        self._lease = lease
        self._open: dict[str, DeviceDriver] = {}
        self._staged: dict[str, tuple[float, Staged]] = {}
        self._stopped = False
        self.done: dict[str, Pushed] = {}
        self.failed: dict[str, EdgekitError] = {}
        self.enrolled: dict[str, bool] = {}

    def stage(self, device: str) -> RolloutEvent:
        """See `RolloutHands`; the connection stays open for the switch."""
        began, source = time.monotonic(), self._source
        if source is None:
            return DeviceFailed(device, "its staging was broken off, and the rollout goes back")

        def act(driver: DeviceDriver) -> RolloutEvent:
            def report(event: Event) -> None:
                self._report(device, event)

            wish = self._lease.of(device) if self._lease else None
            staged = stage_on(driver, source, self._config_of(device), report, wish)
            if self._lease:
                self._lease.had(device)
                if not self._lease.keeps:
                    self._lease.give(driver)
            seconds = time.monotonic() - began
            self._staged[device] = (seconds, staged)
            if staged.runs is not None:
                self._note(device, staged.runs, 0.0)
                return _told(device, staged.runs.state, staged.runs.soak_seconds)
            self._note(device, TrialVerdict(changed=True, state="staged"), 0.0)
            return DeviceStaged(device, staged.before)

        return self._act(device, act, keep=True)

    def switch(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        release = self._release
        began = time.monotonic()

        def act(driver: DeviceDriver) -> RolloutEvent:
            if self._lease:
                self._lease.take(driver)
            self._report(device, Event("activate"))
            try:
                verdict = activate_on(driver, release, self._config_of(device))
            except UnreachableError:
                raise
            except EdgekitError as error:
                state, reason, soak_seconds = standing_of(driver, release)
                if state == ReleaseState.TRIAL and reason:
                    self.failed[device] = error
                    return DeviceAway(device, reason)  # it is unproven, and tries again by itself
                if state == ReleaseState.TRIAL:  # only its answer was lost
                    return DeviceAnswers(device, soak_seconds or ASK_AGAIN_SECONDS)
                if state == ReleaseState.GOOD and driver.facts.current != release:
                    return DeviceGood(device)
                raise
            self._note(device, verdict, time.monotonic() - began)
            return _told(device, verdict.state, verdict.soak_seconds)

        return self._act(device, act)

    def verdict(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        release = self._release

        def act(driver: DeviceDriver) -> RolloutEvent:
            state, reason, soak_seconds = standing_of(driver, release)
            match state:
                case ReleaseState.STAGED:
                    return DeviceStaged(device, driver.facts.current)
                case ReleaseState.TRIAL if reason:
                    return DeviceAway(device, reason)
                case ReleaseState.TRIAL:
                    return DeviceAnswers(device, soak_seconds or ASK_AGAIN_SECONDS)
                case ReleaseState.GOOD if not reason:
                    return DeviceGood(device)
            return DeviceFailed(device, reason or "the release is not there any more")

        return self._act(device, act)

    def quality(self, device: str) -> QualityTold | None:
        """See `RolloutHands`; a device that cannot be asked now is asked again."""

        def act(driver: DeviceDriver) -> RolloutEvent:
            told = quality_of(driver, self._release)
            return ClockTicked() if told is None else QualityTold(device, told)

        found = self._act(device, act)
        return found if isinstance(found, QualityTold) else None

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        """See `RolloutHands`."""

        def act(driver: DeviceDriver) -> RolloutEvent:
            if self._lease:
                self._lease.take(driver)
            self._report(device, Event("go back"))
            go_back_on(driver, self._release, before)
            return DeviceBack(device)

        return self._act(device, act)

    def let_go(self, device: str) -> None:
        """See `RolloutHands`."""
        if driver := self._open.pop(device, None):
            driver.close()

    def stop(self) -> None:
        """See `RolloutHands`."""
        self._stopped = True
        if self._lease:
            self._lease.ended.set()
        for device in list(self._open):
            with suppress(KeyError):
                self._open[device].close()

    def _act(
        self, device: str, act: Callable[[DeviceDriver], RolloutEvent], keep: bool = False
    ) -> RolloutEvent:
        """Act on a connected device; an error becomes an event."""
        self.failed.pop(device, None)
        try:
            driver = self._open.get(device) or self._connect(device)
            self._open[device] = driver
            if self._stopped:
                raise UnreachableError(f"{device}: the rollout was stopped")
            self.enrolled[device] = driver.facts.enrolled
            with understood(device):
                event = as_written(self._waiting(device, driver, act))
        except EdgekitError as error:
            away = isinstance(error, UnreachableError | LeaseHeldError)
            if self._lease and not away and device in self._open:
                self._lease.give(self._open[device])
            self.let_go(device)
            self.failed[device] = error
            reason = f"{error.what}: {error.why}" if error.why else error.what
            reason = reason.removeprefix(f"{device}: ")[:REASON_LETTERS]
            if isinstance(error, LeaseHeldError) and error.answer.taken_over_by:
                away = False
            return (DeviceAway if away else DeviceFailed)(device, reason)
        if not keep:
            self.let_go(device)
        return event

    def _waiting(
        self, device: str, driver: DeviceDriver, act: Callable[[DeviceDriver], RolloutEvent]
    ) -> RolloutEvent:
        """Act, and wait for another operator who holds the device."""
        if self._lease is None:
            return act(driver)
        return self._lease.waiting(
            lambda: act(driver), lambda text: self._report(device, Event(text))
        )

    def _note(self, device: str, verdict: TrialVerdict, seconds: float) -> None:
        """Note what was done, for the command's output."""
        before, staged = self._staged.get(device, (0.0, None))
        sent = staged.sent if staged else None
        self.done[device] = Pushed(
            device=device,
            release=self._release,
            changed=verdict.changed,
            blobs_sent=sent.blobs if sent else 0,
            bytes_sent=sent.bytes if sent else 0,
            transfer_seconds=sent.seconds if sent else 0.0,
            seconds=before + seconds,
            warnings=staged.warnings if staged else [],
            state=verdict.state,
            soak_seconds=verdict.soak_seconds,
            silent_seconds=verdict.silent_seconds,
            slower=sent.slower if sent else "",
        )


@contextmanager
def understood(device: str) -> Iterator[None]:
    """Take what a device says that no agent of ours says for its own failure.

    One device that is broken, or in strange hands, ends no rollout of the others.

    Raises:
        EdgekitError: its answer cannot be read.
    """
    try:
        yield
    except (*UNREADABLE, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        raise EdgekitError(
            f"{device}: the answer of its agent cannot be read",
            f"{type(error).__name__}: {error}"[:WHY_LETTERS],
            f"look at it with `edgekit state {device}`",
        ) from error


def _told(device: str, state: str, soak_seconds: float | None) -> RolloutEvent:
    """The event for a device whose release answers."""
    if state == ReleaseState.GOOD or soak_seconds is None:
        return DeviceGood(device)
    return DeviceAnswers(device, soak_seconds)

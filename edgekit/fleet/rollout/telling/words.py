"""The events of a rollout in words. Pure."""

from __future__ import annotations

from edgekit.core.quality import in_words
from edgekit.fleet.rollout import events
from edgekit.fleet.rollout.events import RolloutEvent
from edgekit.fleet.rollout.telling.timeline import (
    DeviceChanged,
    OrderGiven,
    PhaseChanged,
    RolloutChange,
    WaveBegan,
)
from edgekit.fleet.rollout.telling.told import lasted, printable

_NO_WORDS: dict[type[RolloutEvent], str] = {
    events.DeviceGood: "calls the release good",
    events.DeviceBack: "runs again what it ran before",
    events.ClockTicked: "time has passed",
}


def words(event: RolloutEvent) -> str:
    """An event in words; text of devices and people is made one printable line."""
    match event:
        case events.DeviceStaged(_, before):
            said = f"has every byte, and verified it; runs {before.short if before else 'nothing'}"
        case events.DeviceAnswers(_, seconds):
            said = f"answers; on trial for {seconds:.0f} s more"
        case events.DeviceFailed(_, reason):
            said = f"failed: {reason}"
        case events.DeviceAway(_, reason):
            said = f"is away: {reason}"
        case events.RolloutStarted(by):
            said = f"started by {by}"
        case events.HookEnded(trouble):
            said = f"the hook failed: {trouble}" if trouble else "the hook ended well"
        case events.QualityTold(_, report):
            said = f"against the release before: {in_words(report)}"
        case events.WindowChanged(is_open, window):
            name = f"the window {window}" if window else "the window"
            said = f"{name} {'is open' if is_open else 'is closed'}"
        case events.ClockSet(seconds):
            way = "forward" if seconds > 0 else "back"
            said = f"the clock was set {way} by {lasted(abs(seconds))}"
        case events.PauseOrdered(by, reason):
            said = f"pause ordered by {by}" + (f": {reason}" if reason else "")
        case events.ResumeOrdered(by, retry):
            said = f"resume ordered by {by}" + (", failed devices again" if retry else "")
        case events.AbortOrdered(by):
            said = f"abort ordered by {by}"
        case events.RollbackOrdered(by):
            said = f"rollback ordered by {by}"
        case _:
            said = _NO_WORDS[type(event)]
    return printable(said)


def change_words(change: RolloutChange) -> tuple[str, str]:
    """Who changed, and how: `("pi-3", "staging → staged")`."""
    match change:
        case DeviceChanged(_, device, before, after, reason):
            return device, f"{before} → {after}" + (f": {printable(reason)}" if reason else "")
        case PhaseChanged(_, before, after, reason):
            return "rollout", f"{before} → {after}" + (f": {printable(reason)}" if reason else "")
        case WaveBegan(_, wave):
            return "rollout", f"wave {wave} begins"
        case OrderGiven(_, order, by, reason):
            said = f"{order} ordered by {by}" + (f": {reason}" if reason else "")
            return "rollout", printable(said)

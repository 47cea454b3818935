"""What a rollout asks of one device, and what it makes of the answers, also of strange ones."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseAnswer, LeaseState
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.held import LeaseHeldError
from edgekit.fleet.push import go_back_on
from edgekit.fleet.rollout.events import (
    AskVerdict,
    DeviceAnswers,
    DeviceBack,
    DeviceFailed,
    DeviceGood,
    DeviceStaged,
    HookEnded,
    RolloutEvent,
    RolloutStarted,
)
from edgekit.fleet.rollout.hands import PushHands, understood
from edgekit.fleet.rollout.machine import MOST_SOAK_SECONDS, Rollout
from edgekit.fleet.rollout.waves import RolloutPlan

OLDER, OLD, NEW = (Digest.of(word) for word in (b"older", b"old", b"new"))
CONFIG = 'device = "pi-1"\n'


def no_hook(_wave: int, _after: bool) -> HookEnded:
    return HookEnded()


class Scripted:
    """A device's agent by its answers; `tests/fault/test_release_trial.py` has the real one."""

    name = "pi-1"

    def __init__(self, current: Digest, previous: Digest | None, *, gives_up: bool = True) -> None:
        self.facts = SimpleNamespace(current=current, config=CONFIG, root="/edgekit")
        self.previous, self.gives_up = previous, gives_up
        self.unproven: Digest | None = None
        self.rollbacks = [previous]  # what it runs after each
        self.asked: list[tuple[str, ...]] = []

    def call(self, *words: str, stdin: bytes = b"", seconds: float = 0.0) -> dict[str, Any]:
        self.asked.append(words)
        if words[0] == "activate":
            assert stdin == CONFIG.encode()
            self.unproven = None if self.gives_up else self.unproven
        if words[0] == "rollback":
            return {"release": self.rollbacks.pop(0)}
        waits = {"digest": self.unproven, "reason": "no broker"} if self.unproven else None
        return {"previous": self.previous, "unproven": waits}


def go_back(device: Scripted, before: Digest | None = OLD) -> list[str]:
    go_back_on(cast(DeviceDriver, device), NEW, before)
    return [words[0] for words in device.asked]


def test_a_device_that_runs_the_release_goes_back() -> None:
    assert go_back(Scripted(NEW, OLD)) == ["state", "rollback"]
    for device, before in ((Scripted(NEW, OLDER), OLD), (Scripted(NEW, None), None)):
        with pytest.raises(EdgekitError, match="cannot go back to what it ran before"):
            go_back(device, before)


def test_a_configuration_that_a_rollback_gives_up_first_is_not_the_way_back() -> None:
    device = Scripted(NEW, OLD)
    device.rollbacks = [NEW, OLD]
    assert go_back(device) == ["state", "rollback", "rollback"]
    for ends in ([NEW, NEW], [OLDER]):
        device = Scripted(NEW, OLD)
        device.rollbacks = list(ends)
        with pytest.raises(EdgekitError, match="did not go back"):
            go_back(device)


def test_a_device_that_has_another_name_by_now_is_left_alone() -> None:
    """Its address leads to another one, which runs the same release."""
    device = Scripted(NEW, OLD)
    device.facts.config = 'device = "pi-2"\n'
    with pytest.raises(UsageError, match="the address of pi-1 leads to pi-2") as caught:
        go_back(device)
    assert "`edgekit push pi-1` gives it that name" in caught.value.next_step
    assert device.asked == [("state",)]


def test_a_device_that_runs_another_release_is_left_alone() -> None:
    assert go_back(Scripted(OLD, OLDER)) == ["state"]
    other = Scripted(OLD, OLDER)
    other.unproven = Digest.of(b"somebody else's")
    assert go_back(other) == ["state"]


def test_a_device_that_would_try_the_release_again_is_told_to_keep_the_old_one() -> None:
    device = Scripted(OLD, OLDER)
    device.unproven = NEW
    assert go_back(device) == ["state", "activate", "state"]
    assert device.asked[1] == ("activate", OLD, "--config", "-")
    older = Scripted(OLD, OLDER, gives_up=False)
    older.unproven = NEW
    with pytest.raises(EdgekitError, match="goes on trying"):
        go_back(older)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"releases": 5},
        {"releases": [{"digest": str(NEW)}]},
        {"releases": [{"digest": str(NEW), "state": "trial", "reason": ""}], "trial": "x"},
        {"current": str(NEW), "releases": [{"digest": str(NEW), "state": "bad", "reason": 5}]},
        {
            "releases": [{"digest": str(NEW), "state": "trial", "reason": ""}],
            "unproven": {"digest": str(NEW), "reason": {"no": "text"}},
        },
        {
            "current": str(NEW),
            "releases": [{"digest": str(NEW), "state": "trial", "reason": ""}],
            "trial": {"release": str(NEW), "soak_seconds": "soon"},
        },
    ],
)
def test_a_device_that_answers_nonsense_fails_alone(answer: dict[str, Any]) -> None:
    """It ends neither the rollout of the others nor the command."""
    device = Scripted(NEW, OLD)
    device.facts.enrolled = True
    device.call = lambda *_, **__: answer  # type: ignore[method-assign]  # the nonsense
    device.close = lambda: None  # type: ignore[attr-defined]  # it is a script
    hands = PushHands(
        NEW,
        None,
        lambda _: cast(DeviceDriver, device),
        lambda name: AgentConfig(name, BrokerConfig()),
        lambda *_: None,
        no_hook,
    )
    for act in (hands.verdict, hands.switch, partial(hands.go_back, before=OLD)):
        event = act("pi-1")
        assert isinstance(event, DeviceFailed | DeviceBack)
    assert isinstance(event := hands.verdict("pi-1"), DeviceFailed)
    assert "the answer of its agent cannot be read" in event.reason


def test_a_device_that_soaks_for_ever_is_asked_after_a_day() -> None:
    rollout = Rollout(RolloutPlan(NEW, [["pi-1"]], {"pi-1": "pi"}))
    for event in (RolloutStarted("me"), DeviceStaged("pi-1", OLD), DeviceAnswers("pi-1", 1e308)):
        effects = rollout.handle(event, 1000.0)
    assert effects == (AskVerdict("pi-1", 1000.0 + MOST_SOAK_SECONDS),)


@pytest.mark.parametrize("seconds", [1e308, -1e308, 1e15])
def test_a_lease_of_impossible_times_is_no_end_of_the_command(seconds: float) -> None:
    held = LeaseState("a" * 16, "ada@desk", "rollout-1", seconds, seconds)
    with pytest.raises(EdgekitError), understood("pi-1"):
        raise LeaseHeldError("pi-1", LeaseAnswer(False, held), 1000.0)


@pytest.mark.parametrize(
    ("state", "ran", "event"),
    [
        ("trial", OLD, DeviceAnswers("pi-1", 5.0)),
        ("good", OLD, DeviceGood("pi-1")),
        (
            "good",
            NEW,
            DeviceFailed("pi-1", "it got no verdict"),
        ),  # its settings are not the new ones
        ("bad", OLD, DeviceFailed("pi-1", "it got no verdict")),
    ],
)
def test_a_switch_whose_answer_was_lost_is_no_failure(
    state: str, ran: Digest, event: RolloutEvent
) -> None:
    """A rollback passes over what has failed: it would leave the device on the release."""
    device = Scripted(ran, OLDER)
    device.facts.enrolled, device.facts.manifest = True, ""

    def call(verb: str, *_: str, **__: object) -> dict[str, Any]:
        if verb == "activate":
            raise EdgekitError("it got no verdict")
        row = {"digest": str(NEW), "state": state, "reason": "it died" if state == "bad" else ""}
        return {"current": str(NEW), "releases": [row]}

    device.call = call  # type: ignore[assignment]  # what it says
    device.close = lambda: None  # type: ignore[attr-defined]  # it is a script
    hands = PushHands(
        NEW,
        None,
        lambda _: cast(DeviceDriver, device),
        lambda name: AgentConfig(name, BrokerConfig()),
        lambda *_: None,
        no_hook,
    )
    assert hands.switch("pi-1") == event

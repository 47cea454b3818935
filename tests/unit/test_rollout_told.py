"""What is said of a rollout: its advice makes sense in each phase, its next things are true."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.core.quality import QualityReport
from edgekit.fleet.rollout import events
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import RolloutEvent
from edgekit.fleet.rollout.journal import RolloutRow
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase, WavePhase
from edgekit.fleet.rollout.telling.timeline import Follower, OrderGiven, PhaseChanged, WaveBegan
from edgekit.fleet.rollout.telling.told import RolloutTold, tell
from edgekit.fleet.rollout.telling.words import change_words, words
from edgekit.fleet.rollout.waves import Terms
from tests.fakes import rollout_stories as stories
from tests.fakes.rollout_fleet import FakeFleet


def told(made: FakeFleet, holder: str = "") -> RolloutTold:
    rows = [RolloutRow(at, event, "h") for event, at in made.journal]
    return tell(3, made.rollout, rows, "h", holder)


def test_a_bad_canary_says_how_to_go_on() -> None:
    said = told(stories.bad_canary())
    assert (said.phase, said.wave, said.waves, said.by) == ("paused", 1, 3, stories.BY)
    assert said.reason.startswith("the canary jetson-0001 failed: it crashed")
    assert said.advice == [
        "`edgekit resume 3` goes on with wave 1 of 3",
        "`edgekit resume 3 --retry-failed` tries 1 failed device again, too",
        "`edgekit rollback --rollout 3` takes 1 device back",
    ]
    assert said.devices[0].state == DeviceState.FAILED
    assert said.over


def test_a_wave_that_waits_for_a_word_names_the_next_one() -> None:
    made = stories.started(stories.fleet(10, Terms(confirm=True)))
    made.run()
    said = told(made)
    assert said.reason == "wave 1 went well and waits for a word"
    assert said.advice[0] == "`edgekit resume 3` begins wave 2 of 3"


@pytest.mark.parametrize(
    ("story", "first"),
    [
        (stories.good, "`edgekit rollback --rollout 3` takes 10 devices back"),
        (stories.paused, "`edgekit resume 3` goes on with wave 3 of 3"),
        (stories.aborted, "`edgekit rollback --rollout 3` takes 9 devices back"),
        (lambda: stories.fleet(3), "nobody runs it: `edgekit resume 3` goes on"),
        (lambda: stories.started(stories.fleet(3)), "nobody runs it: `edgekit resume 3` goes on"),
    ],
)
def test_the_first_advice_of_each_phase(story: object, first: str) -> None:
    assert told(story()).advice[0] == first  # type: ignore[operator]  # a story


def test_a_rollout_that_somebody_runs_needs_no_advice() -> None:
    assert told(stories.started(stories.fleet(3)), "ada@desk").advice == []


def test_an_end_says_who_ordered_it() -> None:
    assert told(stories.aborted()).reason == "ordered by ada@desk"
    assert told(stories.two_nights()).reason == "ordered by bob@desk"
    assert told(stories.good()).reason == ""


def test_the_next_things_by_time_are_those_for_which_the_machine_wakes() -> None:
    made = stories.fleet(10, Terms(soak_seconds=600, parallel=8))
    made.devices[made.plan.waves[-1][0]].away = 100
    made.devices[made.plan.waves[-1][1]].away = 100
    stories.started(made)
    seen = set()
    while made.step():
        said = told(made, "ada@desk")
        assert [thing.at for thing in said.next] == sorted(thing.at for thing in said.next)
        wakes = made.rollout.wakes_at()
        timed = [thing.at for thing in said.next if "verdict" not in thing.what]
        assert wakes is None or wakes == min(timed)
        seen |= {thing.what.split(" ", maxsplit=1)[1] for thing in said.next}
        assert told(made).next == []  # nobody runs it: nothing happens
    assert {"soak of wave 1 is over", "is tried again, and 1 more later"} <= seen
    assert any("is asked for its verdict" in what for what in seen)


def test_words_of_a_device_cannot_steer_a_terminal() -> None:
    made = stories.started(stories.fleet(3))
    made.tell(events.DeviceFailed("pi-0000", "bad\x1b[2J\nmodel"))
    assert {device.reason for device in told(made).devices} == {"bad [2J model", ""}
    assert words(events.DeviceFailed("a", "x\x1b[0m\r\ny")) == "failed: x [0m y"


def test_what_changed_is_told_once_and_in_order() -> None:
    made = stories.two_nights()
    follower = Follower(made.plan)
    changes = [c for e, at in made.journal for c in follower.take(RolloutRow(at, e, "h"))]
    phases = [change.after for change in changes if isinstance(change, PhaseChanged)]
    running, paused = RolloutPhase.RUNNING, RolloutPhase.PAUSED
    assert phases == [
        running, paused, running, paused, running, "done", "going back", "back",
    ]  # fmt: skip
    assert [change.wave for change in changes if isinstance(change, WaveBegan)] == [1, 2, 3]
    orders = [change.order for change in changes if isinstance(change, OrderGiven)]
    assert orders == ["resume", "resume", "rollback"]
    said = [change_words(change) for change in changes]
    assert ("rollout", "wave 1 begins") in said
    assert ("rollout", "running → paused: wave 1 went well and waits for a word") in said
    assert any(how == "on trial → failed: it crashed" for _, how in said)


def test_each_event_has_words() -> None:
    fields: dict[str, object] = {"device": "d", "reason": "r", "by": "me", "soak_seconds": 3.0}
    fields |= {"seconds": -90.0}
    fields |= {"open": True, "report": QualityReport("new", why="not comparable")}
    for kind in RolloutEvent.__subclasses__():
        names = [name for name in kind.__struct_fields__ if name in fields]
        assert words(kind(**{name: fields[name] for name in names}))


def test_the_end_of_a_soak_is_told() -> None:
    made = stories.started(stories.fleet(10, Terms(soak_seconds=600)))
    while made.rollout.wave_phase != WavePhase.SOAKING:
        assert made.step()
    said = told(made, "ada@desk")
    assert [thing.at for thing in said.next] == [made.rollout.soak_until]


def test_a_device_that_waits_for_its_window_says_when_it_opens() -> None:
    made = stories.fleet(3)
    windows = {"pi-0000": "22:00-05:00 UTC"}  # the story begins at 14:00 UTC
    made.plan = msgspec.structs.replace(made.plan, windows=windows)
    made.rollout = Rollout(made.plan)
    stories.started(made)
    while made.rollout.devices["pi-0000"].state != DeviceState.STAGED:
        assert made.step()
    said = told(made, "ada@desk")
    (opens,) = (thing for thing in said.next if "may switch" in thing.what)
    assert opens.what == "1 staged device may switch: 22:00-05:00 UTC"
    assert opens.at == stories.BEGIN + 8 * 3600
    assert {device.name: device.window for device in said.devices} == {
        "pi-0000": "22:00-05:00 UTC", "jetson-0001": "", "pi-0002": "",
    }  # fmt: skip

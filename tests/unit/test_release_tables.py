"""The tables of a release's life and of its trial: whole, and in the documentation as in code."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.release import trial
from edgekit.agent.release.events import (
    AgentEnded,
    AgentReady,
    AgentStarted,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    MoveCurrent,
    OnDisk,
    RecordVerdict,
    RestorePreviousConfig,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TimePassed,
)
from edgekit.agent.release.trial import (
    PLAIN,
    RECORDS,
    TRANSITIONS,
    WAYS,
    Happening,
    Phase,
    TrialStep,
)
from edgekit.core import release
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
ON_TRIAL = OnDisk(NEW, ReleaseState.TRIAL, previous=OLD)


@pytest.mark.parametrize("table", [release.table, trial.table, trial.ways_table])
def test_the_documentation_prints_the_tables_of_the_code(table: object) -> None:
    assert callable(table)
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert f"\n{table()}\n" in text


def test_every_phase_but_the_last_goes_on_and_every_word_is_used() -> None:
    phases = {then for then, _ in TRANSITIONS.values()} | {then for *_, then in WAYS.values()}
    assert phases | {Phase.STARTING} == set(Phase)
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - {Phase.OVER}
    assert {happening for _, happening in TRANSITIONS} == set(Happening)
    used = {step for _, steps in TRANSITIONS.values() for step in steps}
    used |= {step for record, steps, _ in WAYS.values() for step in (record, *steps)}
    assert used == set(TrialStep)
    alone = {
        TrialStep.RECORD_FAILURE,
        TrialStep.GO_BACK,
        TrialStep.COUNT_TRY,
        TrialStep.MOVE_CURRENT,
    }
    assert {*PLAIN, *RECORDS} == set(TrialStep) - alone


EVENTS: list[tuple[Event, Happening]] = [
    (AgentReady(), Happening.READY),
    (AgentEnded(""), Happening.ENDED),
    (StopAsked(), Happening.STOP),
    (StopsHeld(), Happening.STOPS_HELD),
]
ROWLESS = [
    (phase, event)
    for phase in Phase
    for event, happening in EVENTS
    if (phase, happening) not in TRANSITIONS
]


@pytest.mark.parametrize(("phase", "event"), ROWLESS)
def test_an_event_without_a_row_changes_nothing(phase: Phase, event: Event) -> None:
    machine = trial.Trial()
    machine.phase = phase
    assert machine.handle(event, 0.0) == ()
    assert machine.phase == phase


def trying(found: OnDisk = ON_TRIAL) -> trial.Trial:
    machine = trial.Trial()
    machine.handle(found, 50.0)
    assert machine.handle(AgentStarted(4.0), 100.0) == ()
    return machine


def test_the_deadline_runs_from_the_agent_s_start_and_its_reason_says_how_long_it_was() -> None:
    machine = trying()
    assert machine.handle(TimePassed(), 104.0) == ()
    assert machine.handle(TimePassed(), 104.1) == (EndAgent(),)
    assert machine.handle(AgentEnded("loading"), 105.0) == (
        RecordVerdict(NEW, ReleaseEvent.FAILED, "no answer within 4 s: loading"),
        RestorePreviousConfig(),
        MoveCurrent(OLD),
        HoldStops(),
    )


def test_an_agent_that_ends_is_named_as_the_reason() -> None:
    record, *_ = trying().handle(AgentEnded("no memory"), 101.0)
    assert record == RecordVerdict(NEW, ReleaseEvent.FAILED, "the agent ended: no memory")


def test_an_agent_that_is_ready_is_good_without_a_reason() -> None:
    effects = trying().handle(AgentReady(), 103.0)
    assert effects[0] == RecordVerdict(NEW, ReleaseEvent.ANSWERED)
    assert effects[-1] == KeepRunning()


def test_a_stop_gives_no_verdict() -> None:
    assert trying().handle(StopAsked(), 101.0) == (EndAgent(), EndSupervisor(0))


@pytest.mark.parametrize("previous", [None, NEW])
def test_without_another_release_to_go_back_to_nothing_is_current(previous: Digest | None) -> None:
    machine = trying(OnDisk(NEW, ReleaseState.TRIAL, previous=previous))
    effects = machine.handle(AgentEnded("no memory"), 101.0)
    assert effects[1:] == (MoveCurrent(None), EndSupervisor(1))
    assert machine.phase == Phase.OVER


def test_a_supervisor_that_cannot_start_fails_a_trial_and_nothing_else() -> None:
    record, *_ = trial.Trial().handle(SupervisorFailed(ON_TRIAL, "no Python"), 0.0)
    assert record == RecordVerdict(NEW, ReleaseEvent.FAILED, "no Python")
    for state in (None, ReleaseState.GOOD, ReleaseState.BAD):
        assert trial.Trial().handle(SupervisorFailed(OnDisk(NEW, state), "no Python"), 0.0) == ()

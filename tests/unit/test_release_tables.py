"""The tables of a release's life and of its trial: whole, and in the documentation as in code."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edgekit.agent.release.trial import machine as trial
from edgekit.agent.release.trial import table as trialtable
from edgekit.agent.release.trial.demands import CRASH_LIMIT, retry_seconds, unfit
from edgekit.agent.release.trial.events import (
    AgentCrashed,
    AgentEnded,
    AgentReady,
    AgentStarted,
    Demands,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    MoveCurrent,
    OnDisk,
    RecordUnproven,
    RecordVerdict,
    Reported,
    RestoreOlder,
    RestorePreviousConfig,
    SetAsideConfig,
    StartAgent,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TimePassed,
    TryUnrecorded,
)
from edgekit.agent.release.trial.machine import PLAIN, RECORDS
from edgekit.agent.release.trial.table import TRANSITIONS, WAYS, Happening, Phase, TrialStep
from edgekit.core import release
from edgekit.core.digest import Digest
from edgekit.core.golden import Golden, GoldenScore, TrialReport
from edgekit.core.release import ReleaseEvent, ReleaseState

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
ON_TRIAL = OnDisk(NEW, ReleaseState.TRIAL, previous=OLD)


@pytest.mark.parametrize("table", [release.table, trialtable.table, trialtable.ways_table])
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
        TrialStep.TAKE_NEXT_CONFIG,
        TrialStep.RECORD_UNPROVEN,
        TrialStep.TRY_AGAIN,
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


def trying(found: OnDisk = ON_TRIAL, demands: Demands = Demands()) -> trial.Trial:  # noqa: B008  frozen
    machine = trial.Trial()
    machine.handle(found, 50.0)
    assert machine.handle(AgentStarted(4.0, demands), 100.0) == ()
    return machine


def test_a_try_that_is_not_on_record_goes_back_before_the_agent_starts() -> None:
    machine = trial.Trial()
    machine.handle(ON_TRIAL, 0.0)
    reason = "its try cannot be recorded: disk I/O error"
    effects = machine.handle(TryUnrecorded("disk I/O error"), 0.0)
    assert effects[0] == RecordVerdict(NEW, ReleaseEvent.FAILED, reason)
    assert MoveCurrent(OLD) in effects
    assert StartAgent() not in effects


def test_without_a_way_back_the_agent_starts_all_the_same() -> None:
    machine = trial.Trial()
    machine.handle(OnDisk(NEW, ReleaseState.TRIAL), 0.0)
    assert machine.handle(TryUnrecorded("disk I/O error"), 0.0) == (StartAgent(),)
    assert machine.handle(AgentStarted(4.0, Demands()), 0.0) == ()
    assert machine.phase == Phase.TRYING


def test_the_deadline_runs_from_the_agent_s_start_and_its_reason_says_how_long_it_was() -> None:
    machine = trying()
    assert machine.handle(TimePassed(), 104.0) == ()
    assert machine.handle(TimePassed(), 104.1) == (EndAgent(),)
    assert machine.handle(AgentEnded("loading"), 105.0) == (
        RecordVerdict(NEW, ReleaseEvent.FAILED, "no answer within 4 s: loading"),
        RestorePreviousConfig(),
        MoveCurrent(OLD),
        RestoreOlder(),
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


GOLDEN = Golden([], soak_seconds=30.0)
FIT = TrialReport(loaded=True, connected=True, score=GoldenScore(0, 0, 1.0, 0.0, 5.0), rss_bytes=9)


def reason_of(demands: Demands, report: TrialReport) -> str:
    machine = trying(demands=demands)
    assert machine.handle(Reported(report), 101.0) == (EndAgent(),)
    record, *_ = machine.handle(AgentEnded("loading"), 102.0)
    assert isinstance(record, RecordVerdict)
    assert record.event == ReleaseEvent.FAILED
    return record.reason


@pytest.mark.parametrize(
    ("demands", "report", "reason"),
    [
        (
            Demands(GOLDEN),
            replace(FIT, score=GoldenScore(0, 40, 0.25, 0.0, 5.0)),
            "golden prompts: the best token is the recorded one at 25% of 40 certain positions",
        ),
        (
            Demands(GOLDEN),
            replace(FIT, score=GoldenScore(0, 40, 1.0, 0.7, 5.0)),
            "0.700 nats per token less likely, at most 0.1 are allowed",
        ),
        (
            Demands(GOLDEN),
            replace(FIT, score=GoldenScore(0, 40, float("nan"), 0.0, 5.0)),
            "95% are needed",
        ),
        (
            Demands(GOLDEN, min_tokens_per_second=12.5),
            FIT,
            "it makes 5 tokens/s, the floor is 12.5",
        ),
        (
            Demands(GOLDEN),
            replace(FIT, score=GoldenScore(0, 0, 1.0, 0.0, 0.01)),
            "it makes 0.01 tokens/s, the floor is 0.1",
        ),
        (Demands(min_tokens_per_second=5.5), FIT, "it makes 5 tokens/s, the floor is 5.5"),
        (
            Demands(max_rss_bytes=2_000_000),
            TrialReport(rss_bytes=3_500_000),
            "agent and worker use 3.5 MB of memory, the cap is 2.0 MB",
        ),
    ],
)
def test_a_failed_report_names_the_measure_and_both_numbers(
    demands: Demands, report: TrialReport, reason: str
) -> None:
    assert reason in reason_of(demands, report)


def test_the_bundle_s_own_cap_grows_with_the_slots_and_holds_once_they_are_known() -> None:
    """A worker reserves the memory of its slots before it answers: a healthy one must not fail."""
    demands = Demands(max_rss_bytes=580, slot_bytes=94)
    machine = trying(demands=demands)
    assert machine.handle(Reported(TrialReport(loaded=True, rss_bytes=662)), 101.0) == ()
    assert machine.handle(AgentReady(slots=4), 102.0)[-1] == KeepRunning()
    for slots, rss, why in ((1, 662, True), (4, 863, True), (4, 862, False)):
        found = unfit(demands, TrialReport(rss_bytes=rss), slots)
        assert bool(found) == why


def test_an_answer_counts_only_with_the_score_of_the_golden_prompts() -> None:
    machine = trying(demands=Demands(GOLDEN))
    assert machine.handle(AgentReady(), 101.0) == ()
    assert machine.handle(Reported(TrialReport(loaded=True, connected=True)), 101.0) == ()
    assert machine.phase == Phase.TRYING
    assert machine.handle(TimePassed(), 104.1) == (EndAgent(),)
    record, *_ = machine.handle(AgentEnded(""), 105.0)
    assert record == RecordVerdict(
        NEW, ReleaseEvent.FAILED, "no score of its golden prompts within 4 s"
    )


def test_a_floor_holds_for_a_bundle_without_golden_prompts_too() -> None:
    machine = trying(demands=Demands(min_tokens_per_second=4.0))
    assert machine.handle(AgentReady(), 101.0) == ()
    assert machine.handle(Reported(FIT), 101.5)[-1] == KeepRunning()
    machine = trying(demands=Demands(min_tokens_per_second=4.0))
    assert machine.handle(AgentReady(), 101.0) == ()
    assert machine.handle(TimePassed(), 104.1) == (EndAgent(),)
    record, *_ = machine.handle(AgentEnded(""), 105.0)
    assert record == RecordVerdict(
        NEW, ReleaseEvent.FAILED, "no measure of its tokens/s within 4 s"
    )


def soaking() -> trial.Trial:
    machine = trying(demands=Demands(GOLDEN, max_rss_bytes=100))
    machine.handle(Reported(FIT), 101.0)
    assert machine.handle(AgentReady(), 102.0) == ()
    assert machine.phase == Phase.SOAKING
    return machine


def test_a_release_soaks_past_its_deadline_and_is_good_after_it() -> None:
    machine = soaking()
    assert machine.handle(TimePassed(), 131.9) == ()
    assert machine.soak_left(131.5) == 0.5
    effects = machine.handle(TimePassed(), 132.0)
    assert effects[0] == RecordVerdict(NEW, ReleaseEvent.ANSWERED)
    assert effects[-1] == KeepRunning()


def test_a_crash_and_too_much_memory_within_the_soak_fail_the_trial() -> None:
    record, *_ = soaking().handle(AgentEnded("no memory"), 120.0)
    assert isinstance(record, RecordVerdict)
    assert record.reason == "the agent ended within the soak of 30 s after its answer: no memory"
    machine = soaking()
    assert machine.handle(Reported(replace(FIT, rss_bytes=101)), 120.0) == (EndAgent(),)


def test_only_the_broker_is_missing_for_both_releases_that_is_unproven() -> None:
    machine = trying(demands=Demands(GOLDEN, broker="hub:1883", was_connected=False))
    machine.handle(Reported(replace(FIT, connected=False)), 101.0)
    assert machine.handle(TimePassed(), 104.1) == (EndAgent(),)
    effects = machine.handle(AgentEnded("x"), 105.0)
    reason = (
        "no connection to hub:1883 within 4 s, the release before had none either; everything "
        "else passed"
    )
    assert effects[:2] == (RecordUnproven(NEW, reason, only_config=False), SetAsideConfig())
    assert effects[-1] == HoldStops()


@pytest.mark.parametrize(
    ("demands", "report", "reason"),
    [
        (Demands(), replace(FIT, connected=False), "the release before was connected"),
        (Demands(was_connected=False), replace(FIT, loaded=False, connected=False), "no answer"),
        (Demands(GOLDEN, was_connected=False), TrialReport(loaded=True), "no score"),
    ],
)
def test_what_cannot_connect_alone_or_shows_less_is_bad(
    demands: Demands, report: TrialReport, reason: str
) -> None:
    machine = trying(demands=demands)
    machine.handle(Reported(report), 101.0)
    machine.handle(TimePassed(), 104.1)
    record, *_ = machine.handle(AgentEnded("x"), 105.0)
    assert isinstance(record, RecordVerdict)
    assert reason in record.reason


def test_an_unproven_first_release_goes_on_and_is_good_once_it_is_connected() -> None:
    machine = trying(OnDisk(NEW, ReleaseState.TRIAL), Demands(was_connected=False))
    machine.handle(Reported(TrialReport(loaded=True)), 101.0)
    (record,) = machine.handle(TimePassed(), 104.1)
    assert isinstance(record, RecordUnproven)
    assert machine.handle(TimePassed(), 500.0) == ()
    effects = machine.handle(AgentReady(), 501.0)
    assert effects[0] == RecordVerdict(NEW, ReleaseEvent.ANSWERED)
    again = trial.Trial().handle(OnDisk(NEW, ReleaseState.TRIAL, unproven=True), 0.0)
    assert StartAgent() in again


def test_a_crash_loop_goes_back_only_where_there_is_another_release() -> None:
    good = OnDisk(NEW, ReleaseState.GOOD, previous=OLD)
    machine = trial.Trial()
    assert machine.handle(good, 0.0) == (KeepRunning(),)
    assert machine.handle(AgentCrashed(CRASH_LIMIT - 1, "x"), 1.0) == ()
    record, *_ = machine.handle(AgentCrashed(CRASH_LIMIT, "no memory"), 2.0)
    assert isinstance(record, RecordVerdict)
    assert record.event == ReleaseEvent.CRASHED
    assert "5 times in a row, each time within 60 s of its start; 5 are allowed" in record.reason
    for alone in (None, NEW):
        machine = trial.Trial()
        machine.handle(OnDisk(NEW, ReleaseState.GOOD, previous=alone), 0.0)
        assert machine.handle(AgentCrashed(99, "x"), 1.0) == ()
        assert machine.phase == Phase.KEEPING


def test_an_unproven_release_is_tried_less_and_less_often() -> None:
    waits = [retry_seconds(tries) for tries in range(9)]
    assert waits == sorted(waits)
    assert (waits[0], waits[1], waits[-1]) == (60.0, 60.0, 3600.0)

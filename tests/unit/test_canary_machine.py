"""The canary's walks: when they begin, in which order, and what they leave."""

from __future__ import annotations

from dataclasses import replace

from edgekit.agent.serve.pipe import Cancel, EndedPrompt, Walk, WalkBroken, WalkEnded
from edgekit.agent.serve.session.canary import (
    BASELINE_SECONDS,
    CRASHED,
    IDLE_SECONDS,
    KEPT_SECONDS,
    MAX_WAITING,
    NO_BASELINE,
    NO_PROMPTS,
    NO_RELEASE,
    NOT_WALKED,
    Canary,
    CanaryEffect,
    Judged,
    KeepBaseline,
    KeepSample,
    Known,
)
from edgekit.core.quality import Baseline, Lineage, QualityReport, Sample, TopTokens

OWN = Lineage("smollm2", "llama", "ab")
TOP = TopTokens([7, 8], [-0.1, -3.0])
OLD = Sample([1, 2, 7], 2, [TOP], 3, loops=False)


def answered(walk: Walk) -> WalkEnded:
    count = len(walk.tokens) - walk.start
    return WalkEnded(walk.key, [7] * count, [TOP] * count, [7, 7, 2], [TOP] * 3)


def drive(canary: Canary, now: float = 0.0) -> tuple[list[Walk], list[CanaryEffect]]:
    """Let it walk until it wants nothing any more."""
    walks: list[Walk] = []
    effects: list[CanaryEffect] = []
    begun = now
    while True:
        walk, found = canary.tick(idle=True, judged=True, now=now)
        effects += found
        if walk is None and now > begun + BASELINE_SECONDS:
            return walks, effects
        now += IDLE_SECONDS + 1
        if walk is None:
            continue
        assert isinstance(walk, Walk)
        walks.append(walk)
        effects += canary.walked(answered(walk))


def test_a_new_release_is_compared_and_then_makes_its_own_baseline() -> None:
    known = Known("new", OWN, [[1, 2], [1, 3]], None, False, "old", Baseline(OWN, [OLD]))
    walks, effects = drive(Canary(known))
    assert [(walk.tokens, walk.start, walk.wanted) for walk in walks] == [
        ([1, 2, 7], 2, [[7, 8]]),
        ([1, 2], 2, []),
        ([1, 3], 2, []),
    ]
    judged, kept = effects
    assert isinstance(judged, Judged)
    assert isinstance(kept, KeepBaseline)
    assert judged.report.score is not None
    assert (judged.report.score.agreement, judged.report.score.kl) == (1.0, 0.0)
    assert [sample.tokens for sample in kept.baseline.samples] == [[1, 2, 7, 7, 2], [1, 3, 7, 7, 2]]


def test_nothing_begins_in_a_trial_or_while_a_prompt_runs() -> None:
    canary = Canary(Known("new", OWN, [[1, 2]]))
    for now, idle, judged in ((0.0, True, False), (9.0, False, True), (20.0, True, True)):
        assert canary.tick(idle=idle, judged=judged, now=now) == (None, [])
    walk, _ = canary.tick(idle=True, judged=True, now=20.0 + IDLE_SECONDS)
    assert walk is None  # nobody waits for a baseline
    walk, _ = canary.tick(idle=True, judged=True, now=20.0 + BASELINE_SECONDS)
    assert walk is not None
    assert canary.tick(idle=True, judged=True, now=99.0) == (None, [])  # one is under way


def test_a_broken_walk_waits_for_the_next_idle_time() -> None:
    for against, seconds in (("old", IDLE_SECONDS), ("", BASELINE_SECONDS)):
        baseline = Baseline(OWN, [OLD]) if against else None
        canary = Canary(Known("new", OWN, [[1, 2]], None, False, against, baseline))
        canary.tick(idle=True, judged=True, now=0.0)
        walk, _ = canary.tick(idle=True, judged=True, now=seconds)
        assert isinstance(walk, Walk)
        assert walk.rest_seconds == (0.0 if against else KEPT_SECONDS)
        canary.broken(WalkBroken("another"))
        assert canary.tick(idle=True, judged=True, now=100.0) == (None, [])  # it goes on
        canary.broken(WalkBroken(walk.key))
        for now in (101.0, 101.0 + seconds - 0.5):
            assert canary.tick(idle=True, judged=True, now=now) == (None, [])
        assert canary.tick(idle=True, judged=True, now=101.0 + seconds) == (walk, [])


def test_a_walk_ends_when_the_device_is_not_idle_any_more() -> None:
    canary = Canary(Known("new", OWN, [[1, 2]]))
    canary.tick(idle=True, judged=True, now=0.0)
    walk, _ = canary.tick(idle=True, judged=True, now=BASELINE_SECONDS)
    assert walk is not None
    assert canary.tick(idle=False, judged=True, now=31.0) == (Cancel(walk.key), [])
    assert canary.tick(idle=False, judged=True, now=32.0) == (None, [])  # it was told once
    canary.broken(WalkBroken(walk.key))
    assert canary.tick(idle=False, judged=True, now=99.0) == (None, [])
    canary.tick(idle=True, judged=True, now=100.0)
    assert canary.tick(idle=True, judged=True, now=100.0 + BASELINE_SECONDS) == (walk, [])


def test_what_cannot_be_compared_is_said_by_name() -> None:
    other = Lineage("phi", "phi3", "ab")
    for known, why in (
        (Known("new", OWN), NO_RELEASE),
        (Known("new", OWN, against="old"), NO_BASELINE),
        (Known("new", OWN, against="old", baseline=Baseline(OWN, [])), NO_PROMPTS),
        (Known("new", OWN, against="old", baseline=Baseline(other, [OLD])), "phi (phi3)"),
    ):
        walks, effects = drive(Canary(known))
        judged = effects[0]
        assert isinstance(judged, Judged)
        assert walks == []
        assert why in judged.report.why
        assert judged.report.score is None


def test_a_release_is_judged_once() -> None:
    report = QualityReport("new", "old")
    known = Known("new", OWN, [[1]], report, True, "old", Baseline(OWN, [OLD]))
    assert drive(Canary(known)) == ([], [])


def test_ended_prompts_are_walked_only_where_the_device_keeps_them() -> None:
    report = QualityReport("new")
    for keeps, count in ((0, 0), (5, 1)):
        canary = Canary(Known("new", OWN, [], report, True, keeps=keeps))
        canary.prompt_ended(EndedPrompt([1, 2, *([7] * 100)], 2), at=5.0)
        canary.prompt_ended(EndedPrompt([1] * 600, 590), at=5.0)  # too long
        canary.prompt_ended(EndedPrompt([1, 2], 2), at=5.0)  # without an answer
        walks, effects = drive(canary)
        assert len(walks) == len(effects) == count
    assert isinstance(effects[0], KeepSample)
    sample = effects[0].sample
    assert (len(sample.tokens), sample.start, sample.ended, sample.length) == (66, 2, True, 3)
    assert len(sample.tops) == 64


def test_few_ended_prompts_wait_and_the_oldest_goes() -> None:
    canary = Canary(Known("new", OWN, [], QualityReport("new"), True, keeps=100))
    for number in range(MAX_WAITING + 3):
        canary.prompt_ended(EndedPrompt([1, number, 7], 2), at=5.0)
    walks, _ = drive(canary)
    assert [walk.tokens[1] for walk in walks] == list(range(3, MAX_WAITING + 3))


def test_few_wait_although_prompts_break_the_walk_of_the_oldest() -> None:
    canary = Canary(Known("new", OWN, [], QualityReport("new"), True, keeps=100))
    canary.prompt_ended(EndedPrompt([1, 0, 7], 2), at=0.0)
    canary.tick(idle=True, judged=True, now=0.0)
    first, _ = canary.tick(idle=True, judged=True, now=IDLE_SECONDS)
    assert isinstance(first, Walk)
    for number in range(1, 50):  # it does not end meanwhile
        canary.prompt_ended(EndedPrompt([1, number, 7], 2), at=float(number))
    canary.walked(answered(first))
    walks, effects = drive(canary, 100.0)
    assert [walk.tokens[1] for walk in walks] == list(range(50 - MAX_WAITING, 50))
    assert [each.at for each in effects if isinstance(each, KeepSample)] == [
        float(number) for number in range(50 - MAX_WAITING, 50)
    ]  # its age counts from the prompt's end


def test_a_prompt_that_waits_too_long_is_forgotten() -> None:
    canary = Canary(Known("new", OWN, [], QualityReport("new"), True, keeps=100))
    canary.prompt_ended(EndedPrompt([1, 1, 7], 2), at=10.0)
    canary.prompt_ended(EndedPrompt([1, 2, 7], 2), at=20.0)
    canary.forget(15.0)
    walks, _ = drive(canary)
    assert [walk.tokens[1] for walk in walks] == [2]


def crash(canary: Canary, now: float) -> list[CanaryEffect]:
    """Let the worker die in the next walk."""
    canary.tick(idle=False, judged=True, now=now)
    canary.tick(idle=True, judged=True, now=now)
    walk, _ = canary.tick(idle=True, judged=True, now=now + BASELINE_SECONDS)
    assert walk is not None
    return canary.lost()


def test_two_crashes_end_the_canary_of_a_release() -> None:
    known = Known("new", OWN, [[1, 2], [1, 3]], None, False, "old", Baseline(OWN, [OLD]), keeps=5)
    canary = Canary(known)
    canary.prompt_ended(EndedPrompt([1, 9, 7], 2), at=5.0)
    assert crash(canary, 0.0) == []
    judged, kept = crash(canary, 100.0)
    assert judged == Judged(QualityReport("new", "old", None, CRASHED))
    assert kept == KeepBaseline(Baseline(OWN, []))
    canary.prompt_ended(EndedPrompt([1, 9, 7], 2), at=6.0)
    assert drive(canary, 200.0) == ([], [])
    restarted = Canary(replace(known, report=judged.report))
    restarted.prompt_ended(EndedPrompt([1, 9, 7], 2), at=7.0)
    assert drive(restarted, 0.0) == ([], [])


def test_crashes_in_a_baseline_keep_the_score_and_what_was_walked() -> None:
    report = QualityReport("new", "old")
    canary = Canary(Known("new", OWN, [[1, 2], [1, 3], [1, 4]], report, False, "old"))
    canary.tick(idle=True, judged=True, now=0.0)
    walk, _ = canary.tick(idle=True, judged=True, now=BASELINE_SECONDS)
    assert isinstance(walk, Walk)
    canary.walked(answered(walk))
    assert crash(canary, 100.0) == []
    (kept,) = crash(canary, 200.0)
    assert isinstance(kept, KeepBaseline)
    assert [sample.tokens for sample in kept.baseline.samples] == [[1, 2, 7, 7, 2]]
    assert drive(canary, 300.0) == ([], [])


def test_a_walk_that_does_not_fit_leaves_its_sample_out() -> None:
    known = Known("new", OWN, [], None, True, "old", Baseline(OWN, [OLD, OLD]))
    canary = Canary(known)
    canary.tick(idle=True, judged=True, now=0)
    walk, _ = canary.tick(idle=True, judged=True, now=IDLE_SECONDS)
    assert walk is not None
    assert canary.walked(WalkEnded(walk.key)) == []
    _, effects = drive(canary, 50)
    (judged,) = effects
    assert isinstance(judged, Judged)
    assert judged.report.score is not None
    assert judged.report.score.prompts == 1


def test_a_release_that_holds_no_walk_says_so() -> None:
    canary = Canary(Known("new", OWN, [], None, True, "old", Baseline(OWN, [OLD])))
    canary.tick(idle=True, judged=True, now=0)
    walk, _ = canary.tick(idle=True, judged=True, now=IDLE_SECONDS)
    assert walk is not None
    assert canary.walked(WalkEnded(walk.key)) == [
        Judged(QualityReport("new", "old", None, NOT_WALKED))
    ]

"""The scheduler, over any prompts that come at any time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.scheduler import (
    SHARED_SLICE_TOKENS,
    SLICE_TOKENS,
    Load,
    fair_steps,
    next_work,
)

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True, database=None)
MIN_SLICE = 2


@SETTINGS
@given(
    prompts=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 400), st.integers(1, 20)),
        min_size=1,
        max_size=4,
    )
)
def test_every_prompt_is_fed_exactly_and_nobody_waits_longer_than_a_turn(
    prompts: list[tuple[int, int, int]],
) -> None:
    """Prompts are (turn they come in, tokens, tokens of the answer); each has its slot."""
    remaining = {slot: tokens for slot, (_, tokens, _) in enumerate(prompts)}
    answers = {slot: count for slot, (_, _, count) in enumerate(prompts)}
    fed_last, waited = -1, dict.fromkeys(remaining, 0)
    for turn in range(2000):
        running = [s for s in remaining if prompts[s][0] <= turn and answers[s]]
        if not running and turn > 20:
            return
        work = next_work([Load(s, remaining[s]) for s in running], fed_last, MIN_SLICE)
        decoding = [s for s in running if not remaining[s]]
        assert list(work.step) == decoding  # every running answer gets its token
        for slot in work.step:
            answers[slot] -= 1
        if work.feed is None:
            assert decoding == running
            continue
        slot, count = work.feed
        assert count <= (SHARED_SLICE_TOKENS if decoding else SLICE_TOKENS)
        assert count >= min(MIN_SLICE, remaining[slot])
        assert remaining[slot] - count != 1  # no slice of one token is left over
        remaining[slot] -= count
        fed_last = slot
        for other in running:
            waited[other] = 0 if other == slot or other in decoding else waited[other] + 1
            assert waited[other] < len(prompts)
    raise AssertionError(f"not done: {remaining} {answers}")


def test_a_requester_with_many_answers_gets_as_many_steps_as_one_with_one() -> None:
    loads = [Load(0, 0, 0, "mallory"), Load(1, 0, 0, "victim")]
    loads += [Load(2, 0, 0, "mallory"), Load(3, 0, 0, "mallory")]
    steps = Counter(slot for turn in range(12) for slot in fair_steps(loads, turn))
    assert steps == {1: 12, 0: 4, 2: 4, 3: 4}
    alone = [load for load in loads if load.requester == "mallory"]
    assert sorted(fair_steps(alone, 5)) == [0, 2, 3]  # nobody else: all of them
    assert next_work(loads, -1, MIN_SLICE).step == (0, 1, 2, 3)  # one step for all


@SETTINGS
@given(owners=st.lists(st.sampled_from("abc"), max_size=6), first=st.integers(0, 1000))
def test_every_answer_gets_a_token_in_as_many_turns_as_there_are_slots(
    owners: list[str], first: int
) -> None:
    loads = [Load(slot, 0, 0, owner) for slot, owner in enumerate(owners)]
    turns = [fair_steps(loads, first + n) for n in range(max(1, len(loads)))]
    assert {slot for step in turns for slot in step} == {load.slot for load in loads}
    for step in turns:
        assert len(set(step)) == len(step)
        assert len({Counter(owners[slot] for slot in step)[owner] for owner in set(owners)}) <= 1


def test_what_must_go_in_at_once_does() -> None:
    assert next_work([Load(0, 300, at_least=257)], -1, MIN_SLICE).feed == (0, 257)
    assert next_work([Load(0, 258, at_least=257)], -1, MIN_SLICE).feed == (0, 258)
    assert next_work([Load(0, 257, at_least=257)], -1, MIN_SLICE).feed == (0, 257)

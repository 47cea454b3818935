"""How often one requester may ask, to the millisecond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.serve.session.rate import Rate


def test_a_minute_s_prompts_at_once_and_then_one_each_time_a_token_is_there() -> None:
    rate = Rate(6)
    assert [rate.take("alice", 1000.0) for _ in range(6)] == [0] * 6
    assert rate.take("alice", 1000.0) == 10_000
    assert rate.take("alice", 1004.0) == 6_000  # a refused one costs nothing
    assert rate.take("alice", 1009.999) == 1
    assert rate.take("alice", 1010.0) == 0
    assert rate.take("alice", 1010.0) == 10_000


def test_one_requester_s_haste_is_not_another_s() -> None:
    rate = Rate(1)
    assert rate.take("alice", 0.0) == 0
    assert rate.take("alice", 0.0) == 60_000
    assert rate.take("bob", 0.0) == 0


def test_zero_is_no_limit_and_remembers_nobody() -> None:
    rate = Rate(0)
    assert {rate.take("alice", 0.0) for _ in range(10_000)} == {0}
    assert len(rate) == 0


def test_as_many_are_remembered_as_it_says_and_the_fullest_bucket_is_forgotten() -> None:
    rate = Rate(2, remembered=3)
    for _ in range(2):
        assert rate.take("hasty", 0.0) == 0
    for number in range(50):
        assert rate.take(f"r{number}", 0.1) == 0
        assert len(rate) <= 3
    assert rate.take("hasty", 0.1) > 0


@given(
    st.integers(1, 5000),
    st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=80),
    st.floats(0, 1e7),
)
def test_whoever_waits_as_long_as_told_is_served_and_a_millisecond_less_is_not_enough(
    per_minute: int, pauses: list[float], now: float
) -> None:
    rate = Rate(per_minute)
    taken = []
    for pause in pauses:
        now += pause
        wait_ms = rate.take("alice", now)
        if wait_ms:
            if wait_ms > 1:
                assert rate.take("alice", now + (wait_ms - 1) / 1e3) == pytest.approx(1, abs=1)
            now += wait_ms / 1e3
            assert rate.take("alice", now) == 0
        taken.append(now)
    for first in range(len(taken)):
        within = sum(at < taken[first] + 59.9 for at in taken[first:])
        assert within <= 2 * per_minute

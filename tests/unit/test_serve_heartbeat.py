"""A worker at work says so once a second, and before it is silent for long; not while it talks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgekit.agent.serve.pipe import SLICE_TOKENS, Done, Heartbeat, quiet_seconds
from edgekit.core.chat.sampling import Sampling
from tests.unit.test_serve_worker import Parent, prompt, worker

pytestmark = pytest.mark.timeout(30)
LONG = "x" * (10 * SLICE_TOKENS)


def slow(seconds: float, *methods: str) -> Callable[[Parent, str], None]:
    """These computations take so long; the others take no time."""

    def wait(parent: Parent, method: str) -> None:
        if method in methods:
            parent.now += seconds

    return wait


def test_a_long_prefill_is_heard_once_a_second() -> None:
    for seconds, expected in ((0.25, 2), (1.0, 11), (30.0, 11)):
        with worker("Paris.", slow(seconds, "extend")) as parent:
            assert parent.done(prompt(LONG)).text == "Paris."
            slices = sum(method == "extend" for method, _ in parent.decoder.calls)
            assert slices == 11
            assert parent.heartbeats == [Heartbeat()] * expected


def test_nothing_is_added_where_the_worker_is_fast_or_its_deltas_are_heard() -> None:
    with worker("Paris. " * 20) as parent:
        parent.done(prompt(LONG, limit=120))
        assert parent.heartbeats == []
    with worker("Paris. " * 20, slow(0.3, "greedy")) as parent:
        parent.done(prompt("Hi", limit=120))
        assert len(parent.deltas) > 50
        assert len(parent.heartbeats) <= 1


def test_an_answer_of_which_nothing_can_be_shown_is_heard() -> None:
    hidden = [0xE2, 0x82] * 30  # never a whole character
    with worker(hidden, slow(0.5, "greedy")) as parent:
        parent.ask(prompt("Hi", limit=40))
        assert parent.deltas == []
        assert len(parent.heartbeats) >= 10


def test_a_beam_search_tells_of_its_prompt_and_is_heard_between_steps() -> None:
    with worker("x" * 30, slow(2.0, "beams"), max_beams=4) as parent:
        done = parent.ask(prompt(LONG, sampling=Sampling(num_beams=4), limit=10))
        assert isinstance(done, Done)
        announced, *steps = parent.heartbeats
        tokens = done.usage.prompt_tokens * 4
        assert announced == Heartbeat(quiet_seconds(tokens))
        assert len(steps) >= 9
        assert set(steps) == {Heartbeat()}


def test_a_slice_that_must_go_in_at_once_is_told_of() -> None:
    with worker("Paris.", rope_threshold=400) as parent:
        parent.done(prompt(LONG))
        assert parent.heartbeats == [Heartbeat(quiet_seconds(401))]

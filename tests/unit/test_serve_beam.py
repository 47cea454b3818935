"""Beam search in the worker: alone, without deltas, cancelled between steps, off by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.serve.pipe import Cancel, Done, Refused, Start
from edgekit.agent.serve.worker.admission import beams_served
from edgekit.agent.serve.worker.decoder.graph import Decoding, Graph
from edgekit.agent.serve.worker.decoder.memory import beams_for
from edgekit.core.chat.sampling import Sampling
from tests.fakes.decoder import FakeBeams
from tests.unit.test_serve_slots import ALPHABET, all_sent, collect
from tests.unit.test_serve_worker import Parent, prompt, worker

pytestmark = pytest.mark.timeout(30)


def beams(key: str = "a/b", count: int = 3, limit: int = 50, **sampling: Any) -> Start:
    return prompt(key=key, limit=limit, sampling=Sampling(num_beams=count, **sampling))


def final(parent: Parent, start: Start) -> Done:
    """The answer, before which no delta may come."""
    done = parent.ask(start)
    assert isinstance(done, Done)
    assert parent.events == []
    return done


def test_it_answers_whole_and_is_counted() -> None:
    with worker("Paris.", max_beams=4) as parent:
        done = final(parent, beams(length_penalty=0.5))
        assert (done.text, done.finish_reason) == ("Paris.", "stop")
        assert done.usage.completion_tokens == 7
        assert parent.beams.asked == [(done.usage.prompt_tokens, 3, 50, 0.5)]
        assert parent.decoder.calls == []
        done = final(parent, beams(limit=3))
        assert (done.text, done.finish_reason, done.usage.completion_tokens) == ("Par", "length", 3)


def test_it_is_off_unless_the_device_allows_so_many() -> None:
    for allowed, asked in ((1, 2), (4, 5)):
        with worker("Paris.", max_beams=allowed) as parent:
            failed = parent.ask(beams(count=asked))
            assert isinstance(failed, Refused)
            assert failed.code == "unsupported_parameter"
            assert "num_beams" in failed.message
            assert parent.beams.asked == []
            assert parent.done(prompt()).text == "Paris."


def test_beams_that_the_memory_has_no_room_for_are_refused_with_the_bound() -> None:
    with worker("Paris.", max_beams=8) as parent:
        length = final(parent, beams(count=2)).usage.prompt_tokens
        parent.beams.asked.clear()
        parent.beams.free_tokens = 3 * (length + 50)
        failed = parent.ask(beams(count=4))
        assert isinstance(failed, Refused)
        assert (failed.code, failed.param) == ("out_of_memory", "num_beams")
        assert "room for 3 beams" in failed.message
        assert parent.beams.asked == []
        assert final(parent, beams(count=3)).text == "Paris."
        assert final(parent, beams(count=8, limit=4)).text == "Pari"  # fewer tokens, more beams


@pytest.mark.parametrize(("free", "served"), [(0, 1), (1023, 1), (2048, 2), (1 << 20, 4)])
def test_the_device_serves_as_many_beams_as_its_memory_allows(free: int, served: int) -> None:
    search = FakeBeams([])
    search.free_tokens = free
    assert beams_served(search, 4, 1024) == served
    assert beams_served(None, 4, 1024) == 1


def test_a_beam_takes_the_prompts_logits_and_more_than_a_slot() -> None:
    decoding = Decoding("m.onnx", 2, 3, 4, inputs={}, outputs={})
    graph = Graph(Path("m.onnx"), decoding, vocabulary=100, padding=0)
    assert graph.token_bytes == 2 * 2 * 3 * 4 * 4
    assert graph.beam_bytes(10, 0) == 10 * (100 * 4 + 2 * graph.token_bytes)
    assert graph.beam_bytes(0, 10) == 10 * 7 * graph.token_bytes
    assert [beams_for(1 << 30, free << 30) for free in (1, 2, 9)] == [0, 1, 4]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.5),
        ("min_p", 0.1),
        ("presence_penalty", 1.0),
        ("frequency_penalty", 1.0),
        ("repetition_penalty", 1.1),
        ("logit_bias", {5: 1.0}),
    ],
)
def test_what_it_has_no_word_for_is_refused_by_name(field: str, value: object) -> None:
    with worker("Paris.", max_beams=4) as parent:
        changed: dict[str, Any] = {field: value}
        failed = parent.ask(beams(**changed))
        assert isinstance(failed, Refused)
        assert failed.code == "unsupported_parameter"
        assert field in failed.message
        assert failed.param == field


def test_its_length_penalty_is_refused_without_it() -> None:
    with worker("Paris.", max_beams=4) as parent:
        failed = parent.ask(prompt(sampling=Sampling(length_penalty=0.5)))
        assert isinstance(failed, Refused)
        assert (failed.code, failed.param) == ("unsupported_parameter", "length_penalty")


def test_a_stop_string_cuts_its_answer() -> None:
    with worker("one two STOP three", max_beams=2) as parent:
        start = prompt(stops=["STOP"], sampling=Sampling(num_beams=2))
        done = final(parent, start)
        assert (done.text, done.finish_reason) == ("one two ", "stop")


@pytest.mark.parametrize(("how", "reason"), [("cancel", "cancelled"), ("late", "deadline")])
def test_it_is_stopped_between_two_steps(how: str, reason: str) -> None:
    steps: list[str] = []

    def stop(parent: Parent, method: str) -> None:
        steps.append(method)
        if len(steps) == 4:
            if how == "cancel":
                parent.pipe.send(Cancel("a/b"))
            else:
                parent.now += 1e10

    with worker(ALPHABET, stop, max_beams=2) as parent:
        done = final(parent, beams(count=2))
        assert (done.text, done.finish_reason) == ("", reason)
        assert len(steps) == 4


def test_it_runs_when_nothing_else_does_and_nothing_overtakes_it() -> None:
    seen: list[str] = []

    def note(parent: Parent, method: str) -> None:
        all_sent(parent, method)
        seen.append(method)

    with worker(ALPHABET, note, slots=2, max_beams=2) as parent:
        parent.send(
            prompt(key="a/1", limit=20),
            beams(count=2, limit=9),
            prompt(key="a/2", limit=20),
        )
        done = collect(parent, 3)
        assert list(done) == ["a/1", "a/b", "a/2"]
        at = [n for n, method in enumerate(seen) if method == "beams"]
        assert at == list(range(at[0], at[0] + 10))  # the prompt and nine steps, in one piece
        assert "greedy" in seen[: at[0]]
        assert "greedy" in seen[at[-1] :]

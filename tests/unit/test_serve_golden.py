"""Golden prompts in the worker, without a model: one decoder records, another is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.agent.serve.pipe import SLICE_TOKENS
from edgekit.agent.serve.worker import golden
from edgekit.agent.serve.worker.decoder import Logits
from edgekit.core.golden import MAX_NATS, MAX_SCORED, Golden, passes
from edgekit.errors import EdgekitError
from edgekit.tokens.template import ChatRefusedError
from tests.fakes.decoder import VOCABULARY, FakeDecoder


class Texts:
    """A tokenizer whose tokens are bytes."""

    def __init__(self, shift: int = 0, template: str = "<{}>", refuses: bool = False) -> None:
        self._shift, self._template, self._refuses = shift, template, refuses

    def render(self, turns: Sequence[tuple[str, str]]) -> str:
        """The text of the only message."""
        if self._refuses:
            raise ChatRefusedError("no")
        return self._template.format(turns[0][1])

    def encode(self, text: str) -> list[int]:
        """Its bytes."""
        return [(byte + self._shift) % 256 for byte in text.encode()]


class Broken(FakeDecoder):
    """A decoder with other logits."""

    def __init__(self, what: str) -> None:
        super().__init__(512)
        self._what = what

    def _logits(self, slot: int) -> Logits:
        logits = super()._logits(slot)
        match self._what:
            case "zeroed":
                logits[:] = 0
            case "nan":
                logits[7] = np.nan
            case "infinite":
                logits[:] = np.inf
            case "noisy":
                logits += np.random.default_rng(1).normal(0, 0.02, VOCABULARY).astype(np.float32)
            case "reversed":
                logits = logits[::-1].copy()
        return logits


def recorded(**limits: Any) -> Golden:
    length = limits.pop("max_length", 512)
    return Golden(golden.record(FakeDecoder(length, **limits), Texts()))


def test_every_question_is_answered_and_the_answer_is_the_likeliest() -> None:
    record = recorded()
    assert len(record.prompts) == len(golden.QUESTIONS)
    assert sum(len(prompt.best) for prompt in record.prompts) == MAX_SCORED
    for prompt in record.prompts:
        assert prompt.tokens[: prompt.start] == Texts().encode(prompt.text)
        assert prompt.tokens[prompt.start :] == prompt.best
        assert all(margin >= 0 for margin in prompt.margins)
        assert all(logprob <= 0 for logprob in prompt.logprobs)
    assert recorded() == record


def test_the_model_that_was_packed_passes_and_every_answer_token_is_a_step() -> None:
    decoder = FakeDecoder(512)
    score = golden.score(decoder, Texts(), recorded(), clock=iter(range(100)).__next__)
    assert (score.positions, score.agreement, score.misread) == (MAX_SCORED, 1.0, 0)
    assert abs(score.nll_change) < 1e-3  # the record has three decimals
    assert score.tokens_per_second == 15.0  # a prompt's 15 steps between two looks at the clock
    assert passes(recorded(), score) == ""
    assert decoder.length(0) == 0
    assert {count for method, count in decoder.calls if method == "step"} == {1}


@pytest.mark.parametrize(
    ("what", "passed"),
    [("", True), ("noisy", True), ("zeroed", False), ("nan", False), ("infinite", False),
     ("reversed", False)],
)  # fmt: skip
def test_another_model_fails(what: str, passed: bool) -> None:
    score = golden.score(Broken(what), Texts(), recorded())
    assert (passes(recorded(), score) == "") == passed
    assert abs(score.nll_change) <= MAX_NATS
    msgspec.json.decode(msgspec.json.encode(score), type=type(score))  # it is finite


def test_another_tokenizer_fails_although_the_model_is_the_same() -> None:
    score = golden.score(FakeDecoder(512), Texts(shift=1), recorded())
    assert score.misread == len(golden.QUESTIONS)
    assert "tokenizer" in passes(recorded(), score)


@pytest.mark.parametrize("min_slice", [1, 2, 3])
@pytest.mark.parametrize("length", [64, 65, 66, 127, 128, 129, 200])
def test_no_slice_is_shorter_or_longer_than_the_decoder_wants(length: int, min_slice: int) -> None:
    decoder = FakeDecoder(512, min_slice=min_slice)
    golden._prefill(decoder, [1] * length)
    sizes = [count for _, count in decoder.calls]
    assert sum(sizes) == length
    assert max(sizes) <= SLICE_TOKENS
    assert min(sizes) >= min_slice


@pytest.mark.parametrize(("context", "prompts"), [(2, 0), (30, 1), (41, 2), (70, 4)])
def test_a_short_context_has_the_prompts_that_fit(context: int, prompts: int) -> None:
    record = recorded(max_length=context)
    assert len(record.prompts) == prompts
    assert all(len(prompt.tokens) <= context for prompt in record.prompts)
    assert passes(record, golden.score(FakeDecoder(context), Texts(), record)) == ""


@pytest.mark.parametrize(("limit", "prompts"), [(0.0, 1), (1.5, 1), (5.0, 2), (1e9, 4)])
def test_a_slow_device_scores_the_first_prompts_in_its_time(limit: float, prompts: int) -> None:
    """The clock goes on by a second at each look."""
    clock = iter(range(100)).__next__
    score = golden.score(FakeDecoder(512), Texts(), recorded(), limit, clock)
    assert score.positions == prompts * golden.ANSWER_TOKENS
    assert passes(recorded(), score) == ""


def test_a_broken_model_fails_by_its_first_prompt_alone() -> None:
    score = golden.score(Broken("reversed"), Texts(), recorded(), 0.0)
    assert score.positions == golden.ANSWER_TOKENS
    assert "golden prompts" in passes(recorded(), score)


def test_no_prompt_crosses_the_length_where_rotary_factors_change() -> None:
    record = recorded(rope_threshold=50)
    assert record.prompts
    assert max(len(prompt.tokens) for prompt in record.prompts) <= 50


def test_a_device_with_a_shorter_slot_than_a_prompt_says_so() -> None:
    score = golden.score(FakeDecoder(30), Texts(), recorded())
    assert "0 positions were scored, 64 are recorded" in passes(recorded(), score)


def test_a_template_that_refuses_such_a_chat_has_no_prompts() -> None:
    assert golden.record(FakeDecoder(512), Texts(refuses=True)) == []


def test_a_long_template_has_no_prompts() -> None:
    assert golden.record(FakeDecoder(2048), Texts(template="x" * 600 + "{}")) == []


@pytest.mark.parametrize("what", ["nan", "infinite"])
def test_a_model_whose_logits_are_no_numbers_is_not_recorded(what: str) -> None:
    with pytest.raises(EdgekitError, match="no numbers"):
        golden.record(Broken(what), Texts())


def test_a_slot_that_can_only_be_emptied_is_scored() -> None:
    decoder = FakeDecoder(512, can_truncate=False)
    assert passes(recorded(), golden.score(decoder, Texts(), recorded())) == ""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="raise"):  # a warning of numpy would be in a device's log
        yield


def test_the_speed_of_steps_is_measured_without_a_record() -> None:
    decoder = FakeDecoder(512)
    assert golden.speed(decoder, clock=iter(range(100)).__next__) == 1.0
    assert decoder.length(0) == 0
    assert golden.speed(FakeDecoder(512), 3.0, clock=iter(range(100)).__next__) == 1.0
    assert golden.speed(FakeDecoder(4, min_slice=2), clock=iter(range(100)).__next__) == 1.0

"""What every decoder and tokenizer does: real ones on SmolLM2 and on a model that takes pictures,
and the unit tests' fake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.decoder import (
    Decoder,
    Logits,
    RuntimeOptions,
    generator,
    graph,
    open_model,
    slots,
)
from edgekit.agent.serve.worker.pictures.rows import items_of
from edgekit.tokens.chat import open_tokenizer
from tests.fakes.decoder import EOS, FakeDecoder, FakeTokenizer

MAX_LENGTH = 256


@dataclass(frozen=True)
class Subject:
    """A decoder with its tokenizer, and a prompt that it answers in a few tokens."""

    decoder: Decoder
    tokenizer: Tokenizer
    encode: Callable[[str], list[int]]
    rows: tuple[int, ...] = ()  # of a picture, within the prompt
    ends: frozenset[int] = frozenset()  # what ends an answer, where no end of turn is likely

    @property
    def prompt(self) -> list[int]:
        tokens = self.tokenizer.encode_chat([("user", "What is the capital of France?")])
        return [*tokens[:5], *self.rows, *tokens[5:]]

    @property
    def second(self) -> list[int]:
        return self.tokenizer.encode_chat([("user", "And of Italy?")])

    @property
    def eos(self) -> int:
        """Ends a turn, and is the padding token too."""
        return min(self.tokenizer.eos_token_ids)

    def extend(self, *slices: list[int]) -> Logits:
        """Logits after the last of these slices in the emptied slot."""
        self.decoder.truncate(0, 0)
        for tokens in slices:
            logits = self.decoder.extend(0, tokens)
        return logits.copy()

    def greedy(self, count: int) -> list[int]:
        return [self.decoder.greedy(0) for _ in range(count)]

    def step(self, *tokens: int) -> Logits:
        for token in tokens:
            logits = self.decoder.step({0: token})[0]
        return logits.copy()


@pytest.fixture(scope="module", params=["generator", "slots", "pictured", "fake"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "fake":
        fake = FakeTokenizer()
        answer = [*fake.encode("It is Paris."), EOS]
        return Subject(FakeDecoder(MAX_LENGTH, answer, slots=2), fake, fake.encode)
    if request.param == "pictured":
        return pictured(request.getfixturevalue("phi3v") / "model")
    folder: Path = request.getfixturevalue("smollm2")
    batching = request.param == "slots"
    decoder, _ = open_model(folder, MAX_LENGTH, RuntimeOptions(threads=2), 2, batching)
    assert decoder.limits.batched == batching
    tokenizer = open_tokenizer(folder)
    return Subject(decoder, tokenizer, tokenizer.encode)


def pictured(folder: Path) -> Subject:
    """The tiny model with rows of a picture in its prompt; what it says seventh ends its answer."""
    decoder, _ = open_model(folder, MAX_LENGTH, RuntimeOptions(threads=2), 2, kept_rows=1000)
    assert decoder.vision is not None
    features = np.random.default_rng(7).standard_normal((20, 64), np.float32)
    decoder.vision.keep(9, features)
    tokenizer = open_tokenizer(folder)
    subject = Subject(decoder, tokenizer, tokenizer.encode, tuple(items_of(9, len(features))))
    subject.extend(subject.prompt)
    return replace(subject, ends=frozenset(subject.greedy(7)[6:]))


@pytest.mark.parametrize("batching", [False, True])
def test_the_free_memory_is_counted_once_the_weights_have_theirs(
    smollm2: Path, batching: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = (slots, "load_session") if batching else (generator, "load_model")
    load = getattr(module, name)
    order: list[str] = []

    def loading(*arguments: Any) -> Any:
        loaded = load(*arguments)
        order.append("loaded")
        return loaded

    def counting() -> int:
        order.append("counted")
        return 2 * 46080 * MAX_LENGTH  # for one slot, with as much to spare

    monkeypatch.setattr(module, name, loading)
    monkeypatch.setattr(graph, "free_bytes", counting)
    decoder, *_ = open_model(smollm2, MAX_LENGTH, RuntimeOptions(threads=2), 0, batching)
    assert order == ["loaded", "counted"]
    assert (decoder.limits.slots, decoder.limits.max_length) == (1, MAX_LENGTH)


def test_greedy_is_the_arg_max_of_step(subject: Subject) -> None:
    logits = subject.extend(subject.prompt)
    expected = []
    for _ in range(6):
        expected.append(int(logits.argmax()))
        logits = subject.step(expected[-1])
    subject.extend(subject.prompt)
    assert subject.greedy(6) == expected


@pytest.mark.parametrize("size", [2, 3, 5, 16, 64])
def test_slices_of_any_size_give_the_same_logits_to_the_bit(subject: Subject, size: int) -> None:
    prompt = subject.prompt + subject.second
    whole = subject.extend(prompt)
    starts = list(range(0, len(prompt) - 1, size))  # no last slice of one token
    cut = [prompt[a:b] for a, b in zip(starts, [*starts[1:], len(prompt)], strict=True)]
    assert min(len(tokens) for tokens in cut) >= subject.decoder.limits.min_slice
    assert (subject.extend(*cut) == whole).all()


def test_extend_after_greedy_counts_the_token_that_was_chosen_last(subject: Subject) -> None:
    subject.extend(subject.prompt)
    chosen = subject.greedy(3)
    after = subject.decoder.extend(0, subject.second).copy()
    assert subject.decoder.length(0) == len(subject.prompt) + 3 + len(subject.second)
    # the same sequence with nothing pending: the last token goes in with the second turn
    subject.extend(subject.prompt)
    subject.step(*chosen[:-1])
    fresh = subject.decoder.extend(0, [chosen[-1], *subject.second])
    assert (after == fresh).all()
    # and in one piece, where a prefill rounds otherwise than single steps
    whole = subject.extend(subject.prompt + chosen + subject.second)
    assert np.corrcoef(after, whole)[0, 1] > 0.99
    assert after.argmax() == whole.argmax()


def test_step_after_greedy_counts_it_too(subject: Subject) -> None:
    subject.extend(subject.prompt)
    chosen = subject.greedy(3)
    after = subject.step(subject.second[0])
    whole = subject.extend([*subject.prompt, *chosen, subject.second[0]])
    assert np.corrcoef(after, whole)[0, 1] > 0.99
    assert subject.decoder.length(0) == len(subject.prompt) + 4


def test_greedy_goes_on_after_extend_and_after_step(subject: Subject) -> None:
    subject.extend(subject.prompt)
    subject.greedy(2)
    expected = int(subject.decoder.extend(0, subject.second).argmax())
    assert subject.greedy(1) == [expected]
    expected = int(subject.step(subject.second[0]).argmax())
    assert subject.greedy(1) == [expected]


def test_truncate_then_extend_equals_a_fresh_run(subject: Subject) -> None:
    fresh = subject.extend(subject.prompt, subject.second)
    subject.extend(subject.prompt, subject.prompt)
    subject.decoder.truncate(0, len(subject.prompt))
    assert (subject.decoder.extend(0, subject.second) == fresh).all()


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_truncate_while_a_chosen_token_is_pending(subject: Subject, kept: int) -> None:
    subject.extend(subject.prompt)
    chosen = subject.greedy(3)
    subject.decoder.truncate(0, len(subject.prompt) + kept)
    assert subject.decoder.length(0) == len(subject.prompt) + kept
    after = subject.decoder.extend(0, subject.second).copy()
    subject.extend(subject.prompt)
    if kept:
        subject.step(*chosen[:kept])
    assert (subject.decoder.extend(0, subject.second) == after).all()


def test_truncate_to_the_length_it_has_changes_nothing(subject: Subject) -> None:
    subject.extend(subject.prompt)
    subject.greedy(2)
    expected = subject.decoder.extend(0, subject.second).copy()
    subject.extend(subject.prompt)
    subject.greedy(2)
    subject.decoder.truncate(0, subject.decoder.length(0))
    assert (subject.decoder.extend(0, subject.second) == expected).all()


def answer_of(subject: Subject) -> list[int]:
    """Tokens up to and with the one that ends the answer."""
    subject.extend(subject.prompt)
    tokens: list[int] = []
    while not tokens or tokens[-1] not in subject.tokenizer.eos_token_ids | subject.ends:
        assert len(tokens) < 60
        tokens += subject.greedy(1)
    return tokens


def test_after_an_answer_that_ended_the_slot_answers_again(subject: Subject) -> None:
    first = answer_of(subject)
    assert answer_of(subject) == first
    logits = subject.extend(subject.prompt)
    for token in first:  # sampled up to the end of the turn as well
        assert int(logits.argmax()) == token
        logits = subject.step(token)
    assert answer_of(subject) == first


def test_a_second_turn_goes_on_from_the_end_of_the_first(subject: Subject) -> None:
    first = answer_of(subject)
    assert subject.decoder.length(0) == len(subject.prompt) + len(first)
    second = subject.decoder.extend(0, subject.second).copy()
    subject.extend(subject.prompt)
    subject.step(*first[:-1])
    assert (subject.decoder.extend(0, [first[-1], *subject.second]) == second).all()


def test_the_length_counts_every_token(subject: Subject) -> None:
    subject.extend(subject.prompt)
    length = len(subject.prompt)
    assert subject.decoder.length(0) == length
    subject.decoder.greedy(0)
    assert subject.decoder.length(0) == length + 1
    subject.decoder.greedy(0)
    assert subject.decoder.length(0) == length + 2
    subject.step(subject.second[0])
    assert subject.decoder.length(0) == length + 3
    subject.decoder.truncate(0, 5)
    assert subject.decoder.length(0) == 5
    subject.decoder.truncate(0, 0)
    assert subject.decoder.length(0) == 0


def test_a_prompt_that_ends_in_padding_gives_the_logits_of_its_last_token(
    subject: Subject,
) -> None:
    before = subject.extend(subject.prompt)
    stepped = subject.step(subject.eos)
    for tail in ([subject.eos], [subject.eos] * 2):
        prompt = subject.prompt + tail
        logits = subject.extend(prompt)
        assert np.corrcoef(logits, before)[0, 1] < 0.9
        assert (subject.extend(prompt[:9], prompt[9:]) == logits).all()
        assert subject.greedy(1) == [int(logits.argmax())]
        if len(tail) == 1:
            assert np.corrcoef(logits, stepped)[0, 1] > 0.99
            assert logits.argmax() == stepped.argmax()


def test_slots_do_not_know_of_each_other(subject: Subject) -> None:
    alone = [subject.extend(subject.prompt), subject.step(subject.second[0])]
    other = subject.extend(subject.second)
    decoder = subject.decoder
    decoder.truncate(0, 0)
    half = len(subject.prompt) // 2
    decoder.extend(0, subject.prompt[:half])
    decoder.truncate(1, 0)
    assert (decoder.extend(1, subject.second) == other).all()
    assert (decoder.extend(0, subject.prompt[half:]) == alone[0]).all()
    chosen = decoder.greedy(1)
    assert chosen == other.argmax()
    stepped = decoder.step({1: subject.prompt[0], 0: subject.second[0]})
    assert (stepped[0] == alone[1]).all()
    assert sorted(stepped) == [0, 1]
    assert (decoder.length(0), decoder.length(1)) == (
        len(subject.prompt) + 1,
        len(subject.second) + 2,
    )
    decoder.truncate(1, 0)
    assert decoder.length(0) == len(subject.prompt) + 1


def test_token_ids_are_below_the_vocabulary_it_names(subject: Subject) -> None:
    assert subject.extend(subject.prompt).shape == (subject.decoder.limits.vocabulary,)
    assert subject.decoder.limits.can_truncate


def test_more_than_the_slot_holds_is_an_error_and_the_slot_lives_on(subject: Subject) -> None:
    expected = subject.extend(subject.prompt)
    subject.decoder.truncate(0, 0)
    with pytest.raises(RuntimeError):
        subject.decoder.extend(0, (subject.prompt * 20)[: MAX_LENGTH + 1])
    assert (subject.extend(subject.prompt) == expected).all()


def test_a_slot_can_be_filled_to_its_last_token(subject: Subject) -> None:
    subject.extend((subject.prompt * 20)[: MAX_LENGTH - 2])
    assert len(subject.greedy(2)) == 2


# --- text -------------------------------------------------------------------------------------
TEXTS = [
    "The capital of France is Paris.",
    "naïve café €5",
    "日本語 漢字かな交じり文",
    "👋🏽 Hi 👨‍👩‍👧‍👦 there 🎉🎉",
    "Привет, мир! مرحبا",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_streamed_text_comes_out_whole_character_by_character(
    subject: Subject, text: str
) -> None:
    stream = subject.tokenizer.stream()
    tokens = subject.encode(text)
    pieces = [stream.decode(token) for token in tokens]
    assert "".join(pieces) == text
    if len(tokens) > len(text):
        assert "" in pieces  # something was held back
    shown = ""
    for piece in pieces:
        shown += piece
        assert text.startswith(shown)
        assert "\ufffd" not in piece


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_ends_anywhere_has_all_its_whole_characters(
    subject: Subject, text: str
) -> None:
    tokens = subject.encode(text)
    for cut in range(len(tokens) + 1):
        stream = subject.tokenizer.stream()
        shown = "".join(stream.decode(token) for token in tokens[:cut]) + stream.flush()
        spelled = b"".join(map(subject.tokenizer.bytes_of, tokens[:cut]))
        assert shown == spelled.decode("utf-8", "ignore")


def test_each_stream_starts_afresh(subject: Subject) -> None:
    tokens = subject.encode("🎉")
    assert len(tokens) > 1
    assert subject.tokenizer.stream().decode(tokens[0]) == ""
    stream = subject.tokenizer.stream()
    assert "".join(stream.decode(token) for token in subject.encode("Hi")) == "Hi"


def test_a_conversation_is_encoded_with_every_role_and_character(subject: Subject) -> None:
    turns = [("developer", "Be brief."), ("user", "Señor 🎉"), ("assistant", "Sí"), ("user", "?")]
    tokens = subject.tokenizer.encode_chat(turns)
    stream = subject.tokenizer.stream()
    text = "".join(stream.decode(token) for token in tokens)
    places = [text.index(content) for _, content in turns]
    assert places == sorted(places)
    if "<|assistant|>" not in getattr(subject.tokenizer, "control", ()):  # one that is not shown
        assert text.rstrip().endswith(("assistant", "assistant:"))

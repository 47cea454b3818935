"""The end of an answer: whole characters are shown, and what is no character is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.agent.serve.worker.answer.answer import Answer
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece
from edgekit.core.chat.logprobs import TokenLogprob
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from tests.models.chat_templates import CHATML
from tests.models.tokenizer_kinds import make_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChatTokenizer:
    return open_tokenizer(make_tokenizer("byte-bpe", tmp_path, CHATML))


def cut_off(tokenizer: ChatTokenizer) -> list[tuple[int, str]]:
    """Tokens of letters and the beginning of another letter, and these letters."""
    found = []
    for token in range(600):
        spelled = tokenizer.bytes_of(token)
        whole = spelled.decode("utf-8", "ignore")
        if whole.strip() and spelled.startswith(whole.encode()) and whole.encode() != spelled:
            found.append((token, whole))
    return found


def answered(tokenizer: ChatTokenizer, token: int, *stops: str) -> tuple[Answer, AnswerPiece]:
    sent: list[AnswerPiece] = []
    answer = Answer(sent.append, stops, tokenizer, logprobs=True)
    said = list(tokenizer.bytes_of(token))
    assert not answer.add(token, 0.0, TokenLogprob("", -1.0, said, []))
    whole = answer.finish(1.0)
    assert "".join(piece.text for piece in sent) == whole.text
    return answer, whole


def test_letters_before_half_a_letter_are_shown(tokenizer: ChatTokenizer) -> None:
    tokens = cut_off(tokenizer)
    assert tokens
    for token, letters in tokens:
        answer, whole = answered(tokenizer, token)
        assert (whole.text, answer.stopped) == (letters, False)
        assert [bytes(each.bytes or []) for each in whole.logprobs] == [tokenizer.bytes_of(token)]


def test_a_stop_string_among_them_ends_the_answer(tokenizer: ChatTokenizer) -> None:
    for token, letters in cut_off(tokenizer):
        answer, whole = answered(tokenizer, token, letters)
        assert (whole.text, whole.logprobs, answer.stopped) == ("", [], True)


def test_a_stop_string_that_only_begins_is_text(tokenizer: ChatTokenizer) -> None:
    for token, letters in cut_off(tokenizer):
        answer, whole = answered(tokenizer, token, f"{letters}…")
        assert (whole.text, answer.stopped) == (letters, False)


@pytest.mark.parametrize("kind", ["byte-bpe", "llama-legacy", "gemma"])
@pytest.mark.parametrize("text", ["a\ufffd", "\ufffd\ufffd", "a \ufffd"])
def test_a_sign_for_no_character_that_the_model_writes_is_shown(
    kind: str, text: str, tmp_path: Path
) -> None:
    tokenizer = open_tokenizer(make_tokenizer(kind, tmp_path, CHATML))
    stream = tokenizer.stream()
    shown = "".join(map(stream.decode, tokenizer.encode(text))) + stream.flush()
    assert shown == text


def test_a_decoder_that_makes_no_text_of_nothing_ends_an_answer(tmp_path: Path) -> None:
    path = make_tokenizer("llama-legacy", tmp_path, CHATML) / "tokenizer.json"
    content = json.loads(path.read_text())
    content["decoder"]["decoders"][-1]["stop"] = 1  # a blank at the end goes, too
    path.write_text(json.dumps(content))
    tokenizer = open_tokenizer(path.parent)
    stream = tokenizer.stream()
    shown = "".join(map(stream.decode, tokenizer.encode("the device")))
    assert shown + stream.flush() == "the device"

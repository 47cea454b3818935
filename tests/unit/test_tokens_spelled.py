"""The bytes of single tokens: joined they are the text, also where a token is half a character."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.tokens.chat import open_tokenizer
from tests.models.tokenizer_kinds import KINDS, make_tokenizer

TEXT = "Grüße aus München, 東京 a\tb {x}"
WHOLE_WORDS = ("word-piece", "word-level")  # their tokens do not say where spaces stood
OTHER_TEXT = {"unigram-nfkc": ("a\tb", "a<unk>b")}  # what the vocabulary does not have


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WHOLE_WORDS])
def test_the_bytes_of_a_texts_tokens_are_those_of_the_text(kind: str, tmp_path: Path) -> None:
    make_tokenizer(kind, tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    tokens = tokenizer.encode(TEXT)
    parts = [tokenizer.bytes_of(token) for token in tokens]
    joined = b"".join(parts).decode()
    if kind == "unigram-nfkc":  # one space or two is the same to it
        joined = " ".join(joined.split())
    assert joined.strip() == TEXT.replace(*OTHER_TEXT.get(kind, ("", "")))
    assert all(parts)


@pytest.mark.parametrize("kind", WHOLE_WORDS)
def test_other_tokenizers_say_the_text_of_a_word(kind: str, tmp_path: Path) -> None:
    make_tokenizer(kind, tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    (token,) = tokenizer.encode("device")
    assert tokenizer.bytes_of(token) == b"device"


def test_half_a_character_and_an_unknown_id(tmp_path: Path) -> None:
    make_tokenizer("byte-bpe", tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    halves = [tokenizer.bytes_of(token) for token in tokenizer.encode("🦊")]
    assert len(halves) == 4
    assert b"".join(halves) == "🦊".encode()
    assert tokenizer.bytes_of(10**6) == b""


def test_an_added_token_is_its_own_text(tmp_path: Path) -> None:
    make_tokenizer("byte-bpe", tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    (token,) = tokenizer.encode("<|im_end|>")
    assert tokenizer.bytes_of(token) == b"<|im_end|>"

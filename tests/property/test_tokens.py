"""Tokens of texts and texts of tokens, for every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from tests.models.chat_templates import TEMPLATES
from tests.models.conversations import conversations, texts
from tests.models.tokenizer_kinds import KINDS, make_tokenizer

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", params=sorted(KINDS))
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ChatTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return open_tokenizer(make_tokenizer(request.param, folder, TEMPLATES["chatml"]))


def test_pieces_give_the_ids_of_the_whole_text(tokenizer: ChatTokenizer) -> None:
    """What a chat without a forged token would get, were it encoded in pieces."""

    @SETTINGS
    @given(turns=conversations())
    def check(turns: list[tuple[str, str]]) -> None:
        text = tokenizer.render(turns)
        whole = tokenizer._tokenizer.encode(text, add_special_tokens=False)
        own = list(tokenizer._matches(whole, text))
        assert tokenizer._pieces(text, own, ()) == whole.ids

    check()


def test_streamed_pieces_make_the_text_of_the_whole_answer(tokenizer: ChatTokenizer) -> None:
    @SETTINGS
    @given(text=texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        stream = tokenizer.stream()
        streamed = "".join(stream.decode(token) for token in ids)
        assert streamed == tokenizer._tokenizer.decode(
            [token for token in ids if token not in tokenizer._unshown], skip_special_tokens=False
        )

    check()


def test_an_anchor_is_never_shown(tokenizer: ChatTokenizer) -> None:
    """A model whose head has more rows than the tokenizer has words may choose its id."""
    past = tokenizer._tokenizer.get_vocab_size()
    stream = tokenizer.stream()
    assert [stream.decode(token) for token in (past - 2, past - 1, past)] == ["", "", ""]


def test_any_tokens_can_be_streamed(tokenizer: ChatTokenizer) -> None:
    """A model may choose any token: half of a character, then a special one.

    Of bytes that are no UTF-8, the library's stream shows what it knew when they came.
    """
    vocabulary = tokenizer._tokenizer.get_vocab_size() - 2  # without the anchors

    @SETTINGS
    @given(ids=st.lists(st.integers(0, vocabulary - 1), max_size=30))
    def check(ids: list[int]) -> None:
        stream = tokenizer.stream()
        streamed = "".join(stream.decode(token) for token in ids)
        whole = tokenizer._tokenizer.decode(
            [token for token in ids if token not in tokenizer._unshown], skip_special_tokens=False
        )
        assert whole.startswith(streamed) or "\ufffd" in whole

    check()

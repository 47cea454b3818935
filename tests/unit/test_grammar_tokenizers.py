"""Grammars over every kind of tokenizer: the text that is streamed matches, or none is served."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer

from edgekit.agent.serve.worker.grammar.grammars import NoCompilerError
from edgekit.agent.serve.worker.grammar.guide import GrammarError
from edgekit.agent.serve.worker.grammar.opening import open_compiler
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from tests.models.tokenizer_kinds import KINDS, make_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
REFUSED = ("word-piece", "word-level")  # spaces stand between their tokens, and nothing says where
SERVED = [kind for kind in KINDS if kind not in REFUSED]
TEXTS = (
    '{"temperature": 21.5, "ok": true}',
    "The agent answers  prompts.",
    "Paris [CALL]",
    '{"unit":"celsius","x y":[1,2,3]}',
    "capital",
)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"a b": {"type": "string", "maxLength": 12}, "c": {"enum": ["é x", 5]}},
        "required": ["a b", "c"],
        "additionalProperties": False,
    }
)
REGEX = r"[a-zA-Z]{1,8}( [a-z]{1,5}){0,3}\.  [äö東]{1,3} end"


def made(kind: str, folder: Path) -> tuple[ChatTokenizer, int, int]:
    """The tokenizer in a folder, the number of its logits, and the token that ends an answer."""
    make_tokenizer(kind, folder, TEMPLATE, ordinary=("q é", "[CALL]"))
    ids = plain(folder).get_vocab(with_added_tokens=True)
    return open_tokenizer(folder), max(ids.values()) + 9, ids["</s>"]


def plain(folder: Path) -> Tokenizer:
    """The tokenizer as Hugging Face's library reads it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.mark.parametrize("kind", SERVED)
def test_every_token_of_a_vocabulary_has_the_bytes_that_its_decoder_writes(
    kind: str, tmp_path: Path
) -> None:
    tokenizer, size, _ = made(kind, tmp_path)
    reference, table = plain(tmp_path), tokenizer.table(size)
    spelled = table.spelled()
    before = reference.encode("a", add_special_tokens=False).ids
    text = reference.decode(before, skip_special_tokens=False)
    checked = 0
    for token in range(size):
        word = reference.id_to_token(token)
        if word is None:
            assert (token in table.special, spelled[token]) == (True, b"")
        elif token not in table.special and "\ufffd" not in spelled[token].decode(
            "utf-8", "replace"
        ):
            written = reference.decode([*before, token], skip_special_tokens=False)
            assert written == text + spelled[token].decode(), word
            checked += 1
    assert checked > 100 or kind == "unigram-nfkc"
    assert checked > 50


@pytest.mark.parametrize("kind", SERVED)
def test_forced_tokens_are_those_that_the_tokenizer_itself_makes(kind: str, tmp_path: Path) -> None:
    """Behind a line's end, as an answer stands behind its prompt.

    Some tokenizers change a text (one space or two, a space behind an added token): then what is
    forced spells the text all the same.
    """
    tokenizer, size, end = made(kind, tmp_path)
    reference = plain(tmp_path)
    table = tokenizer.table(size)
    spelled = table.spelled()
    compiler = open_compiler(tokenizer.table, size, [end])
    compared = 0
    for text in TEXTS:
        guide = compiler.compile(Constraint("lark", f"start: {json.dumps(text)}")).copy()
        forced = list(guide.opening)
        assert guide.ended
        assert b"".join(spelled[token] for token in forced).decode() == text
        whole = reference.encode(f"1\n{text}", add_special_tokens=False).ids
        if b"".join(spelled[token] for token in whole).endswith(f"\n{text}".encode()):
            assert whole[-len(forced) :] == forced
            compared += 1
    assert compared >= (0 if kind == "unigram-nfkc" else 3)


@pytest.mark.parametrize("kind", SERVED)
def test_a_text_that_a_normaliser_would_change_is_written_as_it_stands(
    kind: str, tmp_path: Path
) -> None:
    tokenizer, size, end = made(kind, tmp_path)
    compiler = open_compiler(tokenizer.table, size, [end])
    text = "Cafe\u0301 ①▁x"
    can = "byte" in kind or kind in ("ignore-merges", "single-word")
    constraint = Constraint("lark", f"start: {json.dumps(text, ensure_ascii=False)}")
    if not can:  # a sign for the space is a space, or there are no tokens for a character
        with pytest.raises(GrammarError):
            compiler.compile(constraint)
        return
    stream = tokenizer.stream()
    assert "".join(map(stream.decode, compiler.compile(constraint).copy().opening)) == text


@pytest.mark.parametrize("kind", SERVED)
def test_what_is_streamed_matches(kind: str, tmp_path: Path) -> None:
    tokenizer, vocabulary, end = made(kind, tmp_path)
    compiler = open_compiler(tokenizer.table, vocabulary, [end])
    random = np.random.default_rng(1)
    for wanted in (Constraint("json_schema", SCHEMA), Constraint("regex", REGEX)):
        grammar = compiler.compile(wanted)
        for _ in range(10):
            guide, stream = grammar.copy(), tokenizer.stream()
            text = "".join(map(stream.decode, guide.opening))
            while not guide.ended:
                token = int(random.choice(np.flatnonzero(guide.allowed())))
                if token == end:
                    break
                guide.take(token)
                text += "".join(map(stream.decode, [token, *guide.forced()]))
            if wanted.kind == "regex":
                assert re.fullmatch(REGEX, text)
            else:
                jsonschema.validate(json.loads(text), json.loads(SCHEMA))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tokenizer_that_the_library_does_not_know_is_refused(kind: str, tmp_path: Path) -> None:
    tokenizer, vocabulary, end = made(kind, tmp_path)
    with pytest.raises(NoCompilerError, match="with this model's tokenizer") as caught:
        open_compiler(tokenizer.table, vocabulary, [end])
    assert caught.value.code == "unsupported_parameter"

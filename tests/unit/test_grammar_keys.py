"""No object of an answer has a key twice: texts that are followed, answers of real grammars."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.worker.answer.logprobs import LogprobReader, allowed_by
from edgekit.agent.serve.worker.grammar.compiler import TokenCompiler
from edgekit.agent.serve.worker.grammar.guide import GrammarError
from edgekit.agent.serve.worker.grammar.keys import CallKeys, Keys
from edgekit.agent.serve.worker.sampling import Sampler
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.sampling import Sampling
from tests.fakes.decoder import EOS, VOCABULARY
from tests.unit.test_serve_grammar import byte_table

KEYS = st.text('ab"\\{:,é🦊', max_size=3)
VALUES = st.recursive(
    st.none() | st.integers() | st.text('x"\\,:{[', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4),
    max_leaves=12,
)
SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(value: Any, ascii_only: bool) -> str:
    """JSON; a list of pairs is an object, which may have a key twice."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        pairs = (
            f"{json.dumps(key, ensure_ascii=ascii_only)}:{written(each, ascii_only)}"
            for key, each in value
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, ascii_only) for each in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def repeats(text: str) -> bool:
    """Whether an object has a key twice, by Python's reader."""
    found = []

    def pairs(read: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(len({key for key, _ in read}) < len(read))
        return dict(read)

    json.loads(text, object_pairs_hook=pairs)
    return any(found)


def followed(text: bytes, cuts: list[int]) -> bool:
    """Whether the text is followed to its end, in pieces."""
    keys = Keys()
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        after = keys.after(text[begin:end])
        if after is None:
            return False
        keys = after
    assert (keys.open, keys.in_string) == ((), False)
    return True


@given(VALUES, st.booleans(), st.lists(st.integers(0, 200), max_size=8))
@SETTINGS
def test_a_text_is_followed_up_to_the_first_key_that_comes_twice(
    value: Any, ascii_only: bool, cuts: list[int]
) -> None:
    text = written(value, ascii_only)
    escaped = "\\u" in text  # keys alone have characters that need no escape and may get one
    assert followed(text.encode(), cuts) == (not repeats(text) and not escaped)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (rb'{"\u0001\n\"\\":"\u0041\/\ud7ff\ue000"}', True),
        (rb'{"\u000a":1}', False),  # it is \n
        (rb'{"\/":1}', False),
        (rb'{"\u0041":1}', False),
        (rb'["\ud83d\ude00"]', False),
        (rb'["\uDC00"]', False),
    ],
)
def test_escapes_are_those_that_every_reader_reads_alike(text: bytes, fits: bool) -> None:
    assert followed(text, list(range(len(text)))) == fits == followed(text, [])


@pytest.mark.parametrize("tag", [b"<tool_call>", b"[TOOL_CALLS]", b"", 7])
def test_calls_are_followed_behind_their_tag_alone(tag: bytes | int) -> None:
    twice = b'{"name": "f", "arguments": {"a": 1, "a'
    before = b"" if tag == b"" else b'So "{"a":1,"a":2}: '
    for size in (1, 2, 3, 100):
        keys = CallKeys(tag)
        texts = [before, b'{"a": {"b": [{}]}}', b'\n"a" {"a":1,"a":2} ', twice]
        for number, text in enumerate(texts):
            if number in (1, 3) and tag != b"":
                keys = tagged(keys, tag)
            for at in range(0, len(text), size):
                after = keys.after(text[at : at + size])
                assert after is not None
                keys = after
        assert (keys.after(b'": 2') is None) == (tag != b""), "one call alone has no tag"


def tagged(keys: CallKeys, tag: bytes | int) -> CallKeys:
    if isinstance(tag, int):
        return keys.after_token(tag)
    after = keys.after(tag)
    assert after is not None
    return after


@pytest.fixture(scope="module")
def compiler() -> TokenCompiler:
    return TokenCompiler(byte_table(VOCABULARY), [EOS])


OPEN = {"type": "object", "additionalProperties": {"type": "boolean"}}
SCHEMAS: dict[str, Any] = {
    "open": {**OPEN, "maxProperties": 6},
    "nested": {"type": "object", "additionalProperties": OPEN, "maxProperties": 3},
    "listed": {
        "type": "object",
        "properties": {"a": {"type": "null"}},
        "required": ["a"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 4,
    },
    "patterns": {
        "type": "object",
        "patternProperties": {"^[ab:]{1,9}$": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": OPEN, "maxItems": 3},
}


def answer(compiler: TokenCompiler, schema: Any, seed: int, limit: int = 400) -> str:
    """An answer of random tokens, drawn as the worker draws them; keys tend to come again."""
    guide = compiler.compile(Constraint("json_schema", json.dumps(schema))).copy()
    random = np.random.default_rng(seed)
    sampler = Sampler(Sampling(temperature=1.0, seed=seed), [])
    tokens = list(guide.opening)
    while not guide.ended and len(tokens) < limit:
        logits = random.normal(0, 1, VOCABULARY).astype(np.float32)
        logits[list(b'ab":,}]tf')] += 6
        token = sampler.choose(logits, guide)
        if token == EOS:
            break
        forced = guide.forced()
        sampler.skip(forced)
        tokens += [token, *forced]
    return bytes(tokens).decode()


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_have_no_key_twice(compiler: TokenCompiler, name: str) -> None:
    whole = 0
    for seed in range(60):
        text = answer(compiler, SCHEMAS[name], seed)
        try:
            json.loads(text)
        except ValueError:
            continue  # cut
        assert not repeats(text), text
        whole += 1
    assert whole > 30


def test_an_object_ends_where_every_key_that_it_may_have_is_there(compiler: TokenCompiler) -> None:
    """The comma is refused, since what the grammar forces behind it is a key that is there."""
    schema = {
        "type": "object",
        "patternProperties": {"^a$": {"type": "boolean"}},
        "additionalProperties": False,
    }
    texts = {answer(compiler, schema, seed) for seed in range(40)}
    assert texts <= {"{}", '{"a":true}', '{"a":false}'}
    assert len(texts) == 3


def test_where_only_keys_that_are_there_could_follow_the_answer_ends_by_name(
    compiler: TokenCompiler,
) -> None:
    schema = {
        "type": "object",
        "patternProperties": {"^[ab]$": {"type": "null"}},
        "additionalProperties": False,
    }
    guide = compiler.compile(Constraint("json_schema", json.dumps(schema))).copy()
    text, at = b'{"a":null,"b":null,"', len(guide.opening)
    while at < len(text):
        assert guide.take(text[at])
        at += 1 + len(guide.forced())
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    with pytest.raises(GrammarError, match="no token can go on"):
        Sampler(Sampling(), []).choose(logits, guide)


def test_a_log_probability_names_no_token_that_would_be_refused(compiler: TokenCompiler) -> None:
    """A mask knows nothing of keys: the likeliest token in a place could be none that may come."""
    guide = compiler.compile(Constraint("json_schema", json.dumps(OPEN))).copy()
    text, at = b'{"a":true,"a', len(guide.opening)
    while at < len(text):
        assert guide.take(text[at])
        at += 1 + len(guide.forced())
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    logits[list(b'"b')] = [5, 4]
    mask, allowed = guide.allowed(), allowed_by(guide, logits)
    assert np.flatnonzero(mask != allowed).tolist() == [ord('"')]
    assert (guide.allowed() == mask).all(), "it has taken nothing"
    assert not guide.copy().take(ord('"'))
    found = LogprobReader(2, lambda token: bytes([token])).read(logits, ord("b"), allowed)
    assert (found.token, found.top_logprobs[0].token) == ("b", "b")
    assert found.logprob == pytest.approx(4 - np.log(np.exp(logits[allowed]).sum()), abs=1e-5)
    assert all(guide.copy().take(token) for token in np.flatnonzero(allowed)[-40:].tolist())

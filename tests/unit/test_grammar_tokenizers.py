"""Grammars over every kind of tokenizer: the text that is streamed matches, or none is served."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.serve.worker.grammar.grammars import NoCompilerError
from edgekit.agent.serve.worker.grammar.opening import open_compiler
from edgekit.core.chat.constraint import Constraint
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from tests.models.tokenizer_kinds import KINDS, make_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
REFUSED = ("ignore-merges", "unigram-nfkc", "word-piece", "word-level")  # llguidance reads none
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
    make_tokenizer(kind, folder, TEMPLATE)
    tokens = json.loads((folder / "tokenizer.json").read_bytes())
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    vocabulary = tokens["model"]["vocab"]
    return open_tokenizer(folder), max(len(vocabulary), *ids.values()) + 8, ids["</s>"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFUSED])
def test_what_is_streamed_matches(kind: str, tmp_path: Path) -> None:
    tokenizer, vocabulary, end = made(kind, tmp_path)
    compiler = open_compiler(tmp_path, vocabulary, [end])
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
                assert list(json.loads(text)) == ["a b", "c"]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tokenizer_that_the_library_does_not_know_is_refused(kind: str, tmp_path: Path) -> None:
    _, vocabulary, end = made(kind, tmp_path)
    with pytest.raises(NoCompilerError, match="with this model's tokenizer") as caught:
        open_compiler(tmp_path, vocabulary, [end])
    assert caught.value.code == "unsupported_parameter"

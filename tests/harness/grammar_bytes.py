"""What a grammar lets through, byte by byte: without a model's tokens, and without a model."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from edgekit.agent.serve.worker.grammar.compiler import LIMITS, written


class ByteGrammar:
    """A schema as the worker compiles it.

    Args:
        source: a schema that `checked` has returned.

    Raises:
        ValueError: it cannot be compiled.
    """

    def __init__(self, source: str) -> None:
        limits = LLParserLimits(**LIMITS)
        tokens = LLTokenizer("byte")
        self._begin = LLMatcher(tokens, written("json_schema", source), log_level=0, limits=limits)
        if self._begin.is_error():
            raise ValueError(self._begin.get_error())
        if warnings := self._begin.get_grammar_warnings():
            raise ValueError("; ".join(warnings))

    def accepts(self, value: Any) -> bool:
        """Whether this value, as JSON without white space, is a whole answer."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        tokens = list(text.replace("\x7f", "\\u007f").encode())  # llguidance takes it so alone
        matcher = self._begin.deep_copy()
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def forced(self) -> bytes:
        """What every answer begins with."""
        return bytes(self._begin.deep_copy().compute_ff_tokens())

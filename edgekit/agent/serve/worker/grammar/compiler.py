"""The door to llguidance: compiles a constraint for one model's tokens.

The library never raises: after each call its error is looked at. Its limits bound the work of a
compilation and of each token, so that no grammar holds up the other answers for long.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from edgekit.agent.serve.worker.grammar.guide import Allowed, GrammarError
from edgekit.core.chat.constraint import Constraint
from edgekit.core.chat.schema import subschemas

# Below the library's own limits. Measured with SmolLM2's 49,152 tokens: an ambiguous grammar of one
# line needed 204 ms for a token with the library's 50,000 items, and 7 ms with these.
LIMITS: dict[str, Any] = {
    "max_items_in_row": 1000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 1500,
    "max_lexer_states": 20_000,  # 1 to 2 kB each
    "max_grammar_size": 30_000,
    "verbose_errors": False,
}
JSON_OPTIONS: Any = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
Ids = npt.NDArray[np.intp]
NO_IDS: Ids = np.empty(0, dtype=np.intp)
PIECES = ('{"a":"', " b c", "x")  # texts that a grammar may force
SEARCH_SECONDS = 0.5  # for the place in a refused schema
MAX_SAID = 300  # characters of the library's words


class TokenCompiler:
    """Compiles for one tokenizer.

    Args:
        tokenizer: the file `tokenizer.json` of the model.
        vocabulary: how many logits the model has.
        ends: tokens that end an answer.

    Raises:
        GrammarError: the tokenizer changes texts, so that no grammar could be followed.
    """

    def __init__(self, tokenizer: Path, vocabulary: int, ends: Collection[int]) -> None:
        text = _of_pieces(msgspec.json.decode(tokenizer.read_bytes()))
        self._tokens = LLTokenizer(text, n_vocab=vocabulary, eos_token=sorted(ends))
        for piece in PIECES:
            if self._tokens.decode_str(self._tokens.tokenize_str(piece)) != piece:
                raise GrammarError(f"this model's tokenizer does not keep the text {piece!r}")
        self._vocabulary = vocabulary
        self._limits = LLParserLimits(**LIMITS)
        special = (n for n in range(vocabulary) if self._tokens.is_special_token(n))
        self._control: Ids = np.array([n for n in special if n not in ends], dtype=np.intp)

    def compile(self, constraint: Constraint) -> MatcherGuide:
        """Compile, and take the first step.

        Raises:
            GrammarError: it cannot be compiled; the text has the place.
        """
        found = self._tried(constraint.kind, constraint.source, constraint.trusted)
        if isinstance(found, MatcherGuide):
            return found
        if constraint.kind == "json_schema":
            found += f", at {self._place(msgspec.json.decode(constraint.source), found)}"
        raise GrammarError(found)

    def _tried(self, kind: str, source: str, trusted: bool = False) -> MatcherGuide | str:
        """Compile; return the error where that fails."""
        try:
            matcher = LLMatcher(
                self._tokens, _written(kind, source), log_level=0, limits=self._limits
            )
        except (ValueError, RuntimeError) as error:  # a surrogate, or JSON that Rust does not read
            return _short(str(error))
        if matcher.is_error():
            return _short(matcher.get_error())
        if warnings := matcher.get_grammar_warnings():
            return _short("; ".join(warnings))
        guide = MatcherGuide(matcher, self._vocabulary, NO_IDS if trusted else self._control)
        try:
            guide.opening = guide.forced()
            if not guide.ended:
                guide.allowed()
        except GrammarError as error:
            return str(error)
        return guide

    def _place(self, root: dict[str, Any], said: str) -> str:
        """Find the smallest part of a refused schema that is refused in the same words."""
        shared = {name: root[name] for name in ("$schema", "$defs", "definitions") if name in root}
        words = said.partition("\n")[0]
        until = time.monotonic() + SEARCH_SECONDS
        at, below = "", list(subschemas(root, ""))
        while below and time.monotonic() < until:
            where, part = below.pop(0)
            if not isinstance(part, dict):
                continue
            alone = msgspec.json.encode(shared | part).decode()
            found = self._tried("json_schema", alone)
            if isinstance(found, str) and found.partition("\n")[0] == words:
                at, below = where, list(subschemas(part, where))
        return f"{at or 'the root'} of the schema"


class MatcherGuide:
    """A compiled grammar in one answer; a `copy` begins another one.

    Args:
        matcher: at the beginning of the answer.
        vocabulary: how many tokens there are.
        forbidden: tokens that never come, whatever the grammar says.
        opening: the tokens that every answer begins with; the matcher has taken them.
    """

    def __init__(
        self, matcher: LLMatcher, vocabulary: int, forbidden: Ids, opening: Sequence[int] = ()
    ) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._forbidden = forbidden
        self.opening = opening

    def copy(self) -> MatcherGuide:
        """Return a guide in the same state."""
        return MatcherGuide(
            self._matcher.deep_copy(), self._vocabulary, self._forbidden, self.opening
        )

    @property
    def ended(self) -> bool:
        """Whether the answer matches and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> Allowed:
        """Return of each token whether it may come next."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = np.unpackbits(mask, count=self._vocabulary, bitorder="little").view(np.bool_)
        allowed[self._forbidden] = False
        if not allowed.any():
            raise GrammarError("no token can go on with this grammar")
        return allowed

    def forced(self) -> list[int]:
        """Return the tokens that must come next, and count them as taken."""
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        if tokens:
            if np.isin(tokens, self._forbidden).any():
                raise GrammarError("the grammar wants a control token")
            self._matcher.consume_tokens(tokens)
            self._check()
        return tokens

    def take(self, token: int) -> None:
        """Note that a token was chosen."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        error = self._matcher.get_error()
        if error:
            raise GrammarError(_short(error))


def _of_pieces(tokenizer: dict[str, Any]) -> str:
    """Return a `tokenizer.json` that encodes a piece of an answer as it stands in the answer.

    Training leaves padding and truncation in the file, which transformers switches off, too. A
    space before a text is for its beginning, not for what follows a token.
    """

    def without_space(part: Any) -> Any:
        if isinstance(part, dict):
            kept = {key: without_space(value) for key, value in part.items()}
            return kept | ({"add_prefix_space": False} if "add_prefix_space" in part else {})
        return [without_space(each) for each in part] if isinstance(part, list) else part

    changed = {"padding": None, "truncation": None}
    changed["pre_tokenizer"] = without_space(tokenizer.get("pre_tokenizer"))
    return msgspec.json.encode(tokenizer | changed).decode()


def _written(kind: str, source: str) -> str:
    if kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(source)
    return LLMatcher.grammar_from_lark(source)


def _short(error: str) -> str:
    said = error.replace("\n<non-verbose/>", "").strip()
    return said if len(said) <= MAX_SAID else said[:MAX_SAID] + "…"

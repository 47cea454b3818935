"""The door to llguidance: compiles a constraint for one model's tokens.

The library never raises: after each call its error is looked at. Its limits bound the work of a
compilation and of each token, so that no grammar holds up the other answers for long.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from edgekit.agent.serve.worker.grammar.guide import Allowed, GrammarError
from edgekit.agent.serve.worker.grammar.keys import CallKeys, Keys
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.constraint.schema import subschemas
from edgekit.tokens.table import TokenTable

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
SEARCH_SECONDS = 0.5  # for the place in a refused schema
MAX_SAID = 300  # characters of the library's words


class WrongKeyError(GrammarError):
    """An object would get a key twice, or a string an escape that it may not have."""


class TokenCompiler:
    """Compiles for one model's tokens.

    Args:
        table: the tokens.
        ends: tokens that end an answer.
    """

    def __init__(self, table: TokenTable, ends: Collection[int]) -> None:
        self._tokens = _read(table, sorted(ends))
        self._limits = LLParserLimits(**LIMITS)
        self._every: Allowed = np.ones(table.size, dtype=np.bool_)
        self._ordinary = self._every.copy()
        self._ordinary[list(table.special - set(ends))] = False

    def compile(self, constraint: Constraint) -> MatcherGuide:
        """Compile, and take the first step.

        Raises:
            GrammarError: it cannot be compiled; the text has the place.
        """
        found = self._tried(
            constraint.kind, constraint.source, constraint.trusted, _keys_of(constraint)
        )
        if isinstance(found, MatcherGuide):
            return found
        if constraint.kind == "json_schema":
            found += f", at {self._place(msgspec.json.decode(constraint.source), found)}"
        raise GrammarError(found)

    def _tried(
        self, kind: str, source: str, trusted: bool = False, keys: Keys | CallKeys | None = None
    ) -> MatcherGuide | str:
        """Compile; return the error where that fails."""
        try:
            matcher = LLMatcher(
                self._tokens, written(kind, source), log_level=0, limits=self._limits
            )
        except (ValueError, RuntimeError) as error:  # a surrogate, or JSON that Rust does not read
            return _short(str(error))
        if matcher.is_error():
            return _short(matcher.get_error())
        if warnings := matcher.get_grammar_warnings():
            return _short("; ".join(warnings))
        guide = MatcherGuide(
            matcher, self._tokens, self._every if trusted else self._ordinary, keys
        )
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
        tokens: the model's.
        known: of each token whether it may come at all, whatever the grammar says.
        keys: where in a JSON text the answer is; None if it need not be JSON.
        opening: the tokens that every answer begins with; the matcher has taken them.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        tokens: LLTokenizer,
        known: Allowed,
        keys: Keys | CallKeys | None,
        opening: Sequence[int] = (),
    ) -> None:
        self._matcher = matcher
        self._tokens = tokens
        self._known = known
        self._keys = keys
        self._ahead: list[int] | None = None  # what is forced now, if that is known
        self.opening = opening

    def copy(self) -> MatcherGuide:
        """Return a guide in the same state."""
        matcher = self._matcher.deep_copy()
        return MatcherGuide(matcher, self._tokens, self._known, self._keys, self.opening)

    @property
    def ended(self) -> bool:
        """Whether the answer matches and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> Allowed:
        """Return of each token whether it may come next."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = np.unpackbits(mask, count=self._known.size, bitorder="little").view(np.bool_)
        allowed &= self._known
        if not allowed.any():
            raise GrammarError("no token can go on with this grammar")
        return allowed

    def forced(self) -> list[int]:
        """Return the tokens that must come next, and count them as taken."""
        tokens = self._matcher.compute_ff_tokens() if self._ahead is None else self._ahead
        self._ahead = None
        if tokens:
            self._check()
            if not self._known[tokens].all():
                raise GrammarError("the grammar wants a control token")
            self._keys = self._keys_after(tokens)
            self._matcher.consume_tokens(tokens)
            self._check()
        return tokens

    def take(self, token: int) -> bool:
        """Go on with a token if it may come next; return whether it may.

        Where it may, no key comes twice, neither in the token nor in what the grammar forces then.
        """
        if not self._known[token]:
            return False
        if self._matcher.try_consume_tokens([token]) != 1:
            self._check()
            return False
        ahead = self._matcher.compute_ff_tokens()
        try:
            keys = self._keys_after([token])
            if ahead:
                self._keys_after(ahead, keys)
        except WrongKeyError:
            self._take_back()
            return False
        self._keys, self._ahead = keys, ahead
        return True

    def would_take(self, token: int) -> bool:
        """Whether `take` would go on with a token that the mask allows."""
        if self._keys is None:  # the mask says all
            return True
        keys, ahead = self._keys, self._ahead
        taken = self.take(token)
        if taken:
            self._take_back()
            self._keys, self._ahead = keys, ahead
        return taken

    def _take_back(self) -> None:
        if not self._matcher.rollback(1):
            raise GrammarError("the grammar takes no token back")

    def _keys_after(
        self, tokens: Sequence[int], keys: Keys | CallKeys | None = None
    ) -> Keys | CallKeys | None:
        """Return where the answer is behind these tokens; raises WrongKeyError."""
        keys = keys or self._keys
        if keys is None:
            return None
        for token in tokens:
            if self._tokens.is_special_token(token):
                keys = keys.after_token(token)
                continue
            after = keys.after(self._tokens.decode_bytes([token]))
            if after is None:
                raise WrongKeyError(
                    "the grammar wants a key that is there already, or such an escape"
                )
            keys = after
        return keys

    def _check(self) -> None:
        error = self._matcher.get_error()
        if error:
            raise GrammarError(_short(error))


class _Tokens:
    """A model's tokens as llguidance's `TokenizerWrapper` takes them."""

    bos_token_id = None

    def __init__(self, table: TokenTable, end: int) -> None:
        self._table = table
        self.eos_token_id = end
        self.special_token_ids = sorted(table.special)
        names = ((n, f"<[{n}]>".encode()) for n in self.special_token_ids)
        spelled = table.spelled()
        for n, name in names:
            spelled[n] = spelled[n] or name
        self.tokens = spelled

    def __call__(self, text: str) -> list[int]:
        return self._table.encode(text)


def _read(table: TokenTable, ends: list[int]) -> LLTokenizer:
    wrapper = TokenizerWrapper(_Tokens(table, ends[0]))
    tokens = LLTokenizer(wrapper, n_vocab=table.size, eos_token=ends)
    wrapper.tokens = wrapper._gtokenizer.tokens = ()  # the library has its own copy
    return tokens


def _keys_of(constraint: Constraint) -> Keys | CallKeys | None:
    """Return what follows the keys of an answer; a requester's own grammar need not be JSON."""
    tag = constraint.text_until
    if tag is not None:
        return CallKeys(tag if isinstance(tag, int) else tag.encode())
    return Keys() if constraint.kind == "json_schema" or constraint.trusted else None


def written(kind: str, source: str) -> str:
    if kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(source)
    return LLMatcher.grammar_from_lark(source)


def _short(error: str) -> str:
    said = error.replace("\n<non-verbose/>", "").strip()
    return said if len(said) <= MAX_SAID else said[:MAX_SAID] + "…"

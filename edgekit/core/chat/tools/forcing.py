"""Grammars of answers that call tools: calls parse, and their arguments fit the schemas. Pure.

The grammars are written in llguidance's Lark. They name tokens by their ids, so they are trusted.
Of a requester they hold checked schemas, as JSON, and names of letters and digits alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edgekit.core.chat.constraint.constraint import Constraint, constraint_of
from edgekit.core.chat.constraint.schema import SchemaError, checked
from edgekit.core.chat.request import ChatRequest
from edgekit.core.chat.tools.formats import Format, ToolFormat, format_of
from edgekit.core.chat.tools.request import Tool, forced_tools, may_repeat, offered
from edgekit.core.protocol.wire import ProtocolError

# As the templates write JSON: what a model has seen most
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_OPEN_ENDED = ("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf")
NO_ARGUMENTS = "{}"
MAX_CALLS = 16  # of one answer that a grammar binds: a weak model would call without an end


def check_forced(request: ChatRequest) -> None:
    """Check that what the answer's calls must look like can be enforced.

    Raises:
        ProtocolError: a schema that cannot, with its place; or a grammar beside the tools.
    """
    other = constraint_of(request)
    if other is not None and other.kind != "json_schema" and offered(request):
        text = f"{other.param} says what the whole answer looks like: no tools, then"
        raise ProtocolError("invalid_request", text, other.param)
    for _ in _schemas(request, _enforced(request, other)):
        pass


def constraint(request: ChatRequest, how: ToolFormat) -> Constraint | None:
    """Return what the answer must look like, by its tools and its `response_format`.

    Args:
        request: the prompt's body, checked.
        how: how the model calls tools.
    """
    other = constraint_of(request)
    enforced = _enforced(request, other)
    if not enforced:
        return other
    schemas = dict(_schemas(request, enforced))
    calls = [(tool.function.name, schemas.get(tool.function.name)) for tool in enforced]
    form = format_of(how.name)
    writer = _Writer(form, how.tokens, form.many and may_repeat(request))
    until = None
    if forced_tools(request):
        source = writer.only(calls)
    elif other is not None:
        source = writer.or_json(calls, other.source)
    else:
        source, until = writer.or_text(calls), how.tokens.get(form.tag, form.tag)
    return Constraint("lark", source, trusted=True, param="tools", text_until=until)


def binds_calls(request: ChatRequest) -> bool:
    """Whether the calls of a prompt's answer follow a grammar."""
    return bool(_enforced(request, constraint_of(request)))


def _enforced(request: ChatRequest, other: Constraint | None) -> list[Tool]:
    """Return the tools whose calls follow a grammar; none if there is no such grammar.

    Where another constraint binds the answer, calls are what else the answer may be.
    """
    forced, tools = forced_tools(request), offered(request)
    strict = any(tool.function.strict for tool in tools)
    return forced or (tools if strict or other is not None else [])


def _schemas(request: ChatRequest, tools: Sequence[Tool]) -> Iterator[tuple[str, str]]:
    """Yield the names of the tools that have arguments, and the JSON Schemas of these."""
    places = {tool.function.name: number for number, tool in enumerate(request.tools or ())}
    for tool in tools:
        parameters = tool.function.parameters
        if not parameters:
            continue
        try:
            schema: dict[str, Any] = msgspec.json.decode(checked({**parameters, "type": "object"}))
            schema["type"] = "object"  # an older draft says nothing beside `$ref`
        except SchemaError as error:
            code = "unsupported_parameter" if error.valid else "invalid_request"
            where = f"tools[{places[tool.function.name]}].function.parameters"
            raise ProtocolError(code, str(error), where) from None
        if _lists_all(schema):
            schema["additionalProperties"] = False
        yield tool.function.name, _json(schema)


def _lists_all(schema: Mapping[str, Any]) -> bool:
    """Whether a schema of arguments names all that there are: weak models invent others."""
    named = schema.get("properties")
    if named is None or any(key in schema for key in _OPEN_ENDED):
        return False
    return set(named).issuperset(schema.get("required", ()))


def _json(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _STYLE})


Calls = Sequence[tuple[str, str | None]]  # names, and grammars of the arguments


class _Writer:
    """Writes the grammar of calls in one format.

    Args:
        form: the format.
        tokens: tags that are tokens of their own, and their ids.
        many: whether there may be several calls.
    """

    def __init__(self, form: Format, tokens: Mapping[str, int], many: bool) -> None:
        self._form = form
        self._tokens = tokens
        self._many = many
        self._tag = form.tag

    def only(self, calls: Calls) -> str:
        """Return the grammar of answers that are calls."""
        return self._grammar("start: calls", [f"open: {self._literal(self._tag)}"], calls)

    def or_json(self, calls: Calls, schema: str) -> str:
        """Return the grammar of answers that are calls, or JSON of a schema."""
        start = f"start: calls | {_json(json.loads(schema))}"
        return self._grammar(start, [f"open: {self._literal(self._tag)}"], calls)

    def or_text(self, calls: Calls) -> str:
        """Return the grammar of answers that are text, calls, or calls behind text."""
        if not self._tag:  # an answer that begins with an object is a call
            other = r"OTHER: /\s*([^{\s](?s:.*))?/"
            return self._grammar("start: calls | OTHER", ['open: ""', other], calls)
        # The tag spelled by other tokens would open a call that nothing binds
        text = f"ANY: /(?s:.*)/\nTEXT: ANY & ~(ANY {json.dumps(self._tag)} ANY)"
        lazy = "" if self._tag in self._tokens else "[lazy]"
        before = "TEXT" if self._tag in self._tokens else "ANY"
        opening = f"open{lazy}: {before} {self._literal(self._tag)}"
        closed = (self._form.end + self._form.tail).endswith(self._form.closes)
        start = "start: calls TEXT | TEXT" if closed else "start: calls | TEXT"
        return self._grammar(start, [opening, text], calls, spaced=False)

    def _grammar(self, start: str, rules: list[str], calls: Calls, *, spaced: bool = True) -> str:
        form, between = self._form, self._literal(self._form.between) if spaced else ""
        if form.head:
            head, tail = self._literal(form.head.removeprefix(self._tag)), self._literal(form.tail)
            more = self._more(f"{self._literal(form.between)} call")
            rules = [f"calls: open {head} call {more} {tail}", *rules]
        else:
            more = self._more(f"{between} open call")
            rules = [f"calls: open call {more}", *rules]
        begin = form.begin if form.head else form.begin.removeprefix(self._tag)
        rules.append("call: " + " | ".join(f"call_{number}" for number, _ in enumerate(calls)))
        for number, (name, arguments) in enumerate(calls):
            before = self._literal(begin + name + form.middle)
            rules.append(f"call_{number}: {before} arguments_{number} {self._literal(form.end)}")
            rules.append(f"arguments_{number}: {arguments or self._literal(NO_ARGUMENTS)}")
        return "\n".join([start, *rules])

    def _more(self, rule: str) -> str:
        return f"({rule}){{0,{MAX_CALLS - 1}}}" if self._many else ""

    def _literal(self, text: str) -> str:
        """Return a text in Lark; tags that are tokens stand in it by their ids."""
        if not text:
            return ""
        tags = "|".join(re.escape(tag) for tag in sorted(self._tokens, key=len, reverse=True))
        parts = re.split(f"({tags})", text) if tags else [text]
        written = (
            f"<[{self._tokens[part]}]>" if part in self._tokens else json.dumps(part)
            for part in parts
            if part
        )
        return " ".join(written)

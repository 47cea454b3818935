"""What an answer must look like, beside being text: a schema, a regular expression or a grammar."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.core.chat.constraint.formats import (
    MAX_SOURCE_BYTES,
    JsonObjectFormat,
    JsonSchemaFormat,
    TextFormat,
)
from edgekit.core.chat.constraint.lark import LarkError, checked_lark
from edgekit.core.chat.constraint.schema import SchemaError, checked
from edgekit.core.chat.request import ChatRequest
from edgekit.core.protocol.wire import ProtocolError

ANY_OBJECT = '{"type":"object"}'  # the schema of a `json_object`
SCHEMA = "response_format.json_schema.schema"  # the field's name in a refusal


class Constraint(msgspec.Struct, frozen=True):
    """What the whole answer must match; the worker lets the model choose no other token.

    Attributes:
        kind: the language of `source`.
        source: a JSON Schema as JSON text, a regular expression, or a grammar in Lark's syntax.
        trusted: this is a grammar of the agent's own, of tool calls. It may name control tokens;
            a requester's must not.
        param: the field of the prompt that asked for it; a refusal names it.
        text_until: where text may stand before calls, the tag that opens one, a text or a token;
            empty: an answer that begins with an object is a call. None: there is no such text.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    trusted: bool = False
    param: str = "response_format"
    text_until: str | int | None = None


def constraint_of(request: ChatRequest) -> Constraint | None:
    """Return what the request wants its answer to look like; None where any text will do.

    Raises:
        ProtocolError: it cannot be served; the text has the place.
    """
    form = request.response_format
    asked = [
        name
        for name, value in (
            ("response_format", None if isinstance(form, TextFormat) else form),
            ("grammar", request.grammar),
            ("regex", request.regex),
        )
        if value is not None
    ]
    if not asked:
        return None
    if len(asked) > 1:
        text = f"{' and '.join(asked)} each say what the whole answer looks like: give one"
        raise ProtocolError("invalid_request", text, asked[1])
    if (request.num_beams or 1) > 1:
        text = f"{asked[0]} is served without beam search: num_beams is 1"
        raise ProtocolError("unsupported_parameter", text, "num_beams")
    if isinstance(form, JsonObjectFormat):
        return Constraint("json_schema", ANY_OBJECT)
    if isinstance(form, JsonSchemaFormat):
        try:
            return Constraint("json_schema", checked(form.json_schema.of), param=SCHEMA)
        except SchemaError as error:
            code = "unsupported_parameter" if error.valid else "invalid_request"
            raise ProtocolError(code, str(error), SCHEMA) from None
    (name,) = asked
    source = request.grammar or request.regex or ""
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise ProtocolError("invalid_request", f"{size} bytes; at most {MAX_SOURCE_BYTES}", name)
    if request.regex is not None:
        return Constraint("regex", source, param=name)
    try:
        return Constraint("lark", checked_lark(source), param=name)
    except LarkError as error:
        raise ProtocolError("invalid_request", str(error), name) from None

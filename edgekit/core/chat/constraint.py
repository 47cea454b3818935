"""What an answer must look like, beside being text: a schema, a regular expression or a grammar."""

from __future__ import annotations

from typing import Literal

import msgspec

ANY_OBJECT = '{"type":"object"}'  # the schema of a `json_object`


class Constraint(msgspec.Struct, frozen=True):
    """What the whole answer must match; the worker lets the model choose no other token.

    Attributes:
        kind: the language of `source`.
        source: a JSON Schema as JSON text, a regular expression, or a grammar in Lark's syntax.
        trusted: this is a grammar of the agent's own. It may name control tokens; a requester's
            must not.
        param: the field of the prompt that asked for it; a refusal names it.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    trusted: bool = False
    param: str = "response_format"

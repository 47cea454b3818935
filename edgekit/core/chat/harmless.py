"""Values of OpenAI's fields that change no answer: the agent takes these, and refuses all others.

SDKs and gateways send such fields with every request, and send an assistant's message back with the
fields that its answer had. Sources: the OpenAI API reference (chat completions) and the types of
OpenAI's Python SDK.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edgekit.core.protocol.wire import ProtocolError

# The schemas name the values; `check` refuses any other by its field's name.
Null = Annotated[Any, msgspec.Meta(extra_json_schema={"type": "null"})]
Empty = Annotated[Any, msgspec.Meta(extra_json_schema={"type": ["array", "null"], "maxItems": 0})]
One = Annotated[Any, msgspec.Meta(extra_json_schema={"enum": [1, None]})]
NoTool = Annotated[Any, msgspec.Meta(extra_json_schema={"enum": ["none", "auto", None]})]
TextOnly = Annotated[Any, msgspec.Meta(extra_json_schema={"enum": [["text"], None]})]

# By field of a request: the values that it may have beside null.
REQUEST: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
# The same of a message
MESSAGE: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "audio": (),
    "function_call": (),
    "annotations": ([],),
}


def check(given: msgspec.Struct, served: dict[str, tuple[Any, ...]], path: str = "") -> None:
    """Check the fields that are served with a few values alone.

    Args:
        given: a decoded request or message.
        served: `REQUEST` or `MESSAGE`.
        path: stands before the field's name in the error, as `messages[0].`.

    Raises:
        ProtocolError: `unsupported_parameter`, with the field in `param`.
    """
    for name, values in served.items():
        value = getattr(given, name)
        if value is None or any(_same(value, one) for one in values):
            continue
        allowed = [*(msgspec.json.encode(one).decode() for one in values), "null"]
        param = path + name
        raise ProtocolError(
            "unsupported_parameter", f"{param} is served only as {' or '.join(allowed)}", param
        )


def _same(value: object, served: object) -> bool:
    """Whether they are equal; true is not 1."""
    if isinstance(value, bool) or isinstance(served, bool):
        return value is served
    return value == served

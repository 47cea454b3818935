"""Replies of devices as a requester reads them: an odd one is an error by name, never shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.client.reply import Accepted, Delta, Final, read_reply, sender
from edgekit.core.protocol import wire
from edgekit.errors import EdgekitError

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
ESCAPE = "\x1b]0;owned\x07[/x]"


def message(kind: str, body: Any, device: str = "pi") -> wire.Inbound:
    user = (("ek-kind", kind), ("ek-dev", device), ("ek-id", "1"))
    return wire.Inbound("r", json.dumps(body).encode(), user=user)


def whole(content: Any = "Hi", choice: Any = (), **more: Any) -> dict[str, Any]:
    told = {"index": 0, "message": {"role": "assistant", "content": content}}
    first = told | {"finish_reason": "stop"} | dict(choice)
    return {"choices": [first], "usage": USAGE, "timings": None, **more}


def test_what_a_later_agent_says_besides_is_kept() -> None:
    final = read_reply(message("final", whole(timings={"new": "x"}, new=[1])))
    assert isinstance(final, Final)
    assert (final.text, final.completion["new"]) == ("Hi", [1])
    assert read_reply(message("accepted", {"position": 1, "new": 1})) == Accepted("pi", 1)
    delta = {"seq": 0, "choices": [{"index": 0, "delta": {"content": "a", "new": 1}}]}
    read = read_reply(message("delta", delta))
    assert isinstance(read, Delta)
    assert (read.text, read.chunk["choices"]) == ("a", delta["choices"])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("accepted", {"position": ESCAPE}),
        ("accepted", {"position": 1, "eta_ms": ESCAPE}),
        ("accepted", []),
        ("delta", {"seq": 0, "choices": [{"delta": {"content": [ESCAPE]}}]}),
        ("delta", {"seq": 0, "choices": []}),
        ("delta", {"seq": ESCAPE, "choices": [{"delta": {}}]}),
        ("final", whole([ESCAPE])),
        ("final", whole(usage=None)),
        ("final", whole(usage={})),
        ("final", whole(usage={"prompt_tokens": "1"})),
        ("final", whole(timings={"predicted_per_second": None})),
        ("final", whole(timings={"first_token_ms": ESCAPE})),
        ("final", whole(timings=7)),
        ("final", whole(choice={"finish_reason": [ESCAPE]})),
        ("final", whole(choice={"logprobs": {"content": [{"token": "a", "logprob": "x"}]}})),
        ("final", whole() | {"choices": []}),
        ("final", []),
    ],
)
def test_a_reply_that_is_none_of_the_protocol_is_an_error(kind: str, body: Any) -> None:
    """`ask` ended in a traceback where a figure was none, and drew a position as it came."""
    with pytest.raises(EdgekitError, match="a reply of pi cannot be read"):
        read_reply(message(kind, body))


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", ESCAPE, "x" * 65])
def test_a_sender_that_is_no_name_is_nobody(name: str) -> None:
    """A `cancel` goes to the device that has answered: to a topic that its name is a level of."""
    assert sender(message("accepted", {}, name)) == ""


@pytest.mark.parametrize("wait", ["x", -5, 1e300, 10**30, True, None, []])
def test_a_wait_that_is_none_is_not_told(wait: Any) -> None:
    """The gateway made a header of it, and failed."""
    body = {"error": {"code": "queue_full", "message": "full", "retry_after_ms": wait}}
    error = wire.ProtocolError.decode(json.dumps(body).encode())
    assert (error.code, error.retry_after_ms) == ("queue_full", None)

"""A device's replies as the chunks of a stream of server-sent events. Pure.

Deltas come with QoS 0 and may be lost; the final has the whole answer. After a gap no delta is
passed on any more, and the final's rest closes the stream.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.gateway.shown import Shown

DONE = b"data: [DONE]\n\n"
WAITING = b": waiting\n\n"  # a comment, which keeps proxies and clients patient


def event(body: object) -> bytes:
    """One event; bytes are JSON already."""
    return b"data: " + (body if isinstance(body, bytes) else msgspec.json.encode(body)) + b"\n\n"


class Chunks:
    """Makes the chunks of one answer.

    Args:
        prompt_id: the `ek-id`.
        model: that the device serves.
        created: Unix seconds.
        usage: whether token counts come last.
        text: whether it is a text completion.
    """

    def __init__(
        self, prompt_id: str, model: str, created: int, *, usage: bool, text: bool
    ) -> None:
        kind, prefix = (
            ("text_completion", "cmpl") if text else ("chat.completion.chunk", "chatcmpl")
        )
        self._head = {
            "id": f"{prefix}-{prompt_id}",
            "object": kind,
            "created": created,
            "model": model,
        }
        self._usage, self._text = usage, text
        self._next = 0
        self._gap = False
        self._shown = Shown()

    def begin(self) -> bytes:
        """The first chunk, which names the role; a text completion has none."""
        if self._text:
            return b""
        return self._chunk({"index": 0, "delta": {"role": "assistant", "content": ""}})

    def delta(self, body: dict[str, Any]) -> bytes:
        """The chunk of a delta; empty after one was lost."""
        choice = body["choices"][0]
        self._gap = self._gap or body["seq"] != self._next
        self._next += 1
        if self._gap:
            return b""
        self._shown.add(choice)
        return self._chunk(choice)

    def final(self, completion: dict[str, Any]) -> bytes:
        """The last chunks: what no delta has brought, why it ended, and the token counts.

        Raises:
            HttpError: the device began anew and gave another answer than the one that was shown.
        """
        choice = completion["choices"][0]
        rest = self._shown.rest(choice)
        made = self._chunk(rest) if rest else b""
        made += self._chunk({"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]})
        if self._usage:
            counts = {"choices": [], "usage": completion["usage"]}
            made += event(self._head | counts)
        return made + DONE

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        told = {"logprobs": None, "finish_reason": None} | choice
        if self._text:
            told["text"] = told.pop("delta").get("content") or ""
        more = {"usage": None} if self._usage else {}
        return event(self._head | {"choices": [told]} | more)


def text_completion(completion: dict[str, Any]) -> dict[str, Any]:
    """A chat completion in the shape of a text completion."""
    choice = completion["choices"][0]
    told = {
        "index": 0,
        "text": choice["message"]["content"],
        "logprobs": None,
        "finish_reason": choice["finish_reason"],
    }
    shaped = {"object": "text_completion", "choices": [told]}
    return completion | shaped | {"id": completion["id"].removeprefix("chat")}

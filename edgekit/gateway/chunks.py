"""A device's replies as OpenAI's answer: a stream of server-sent events, or one object. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.gateway.refusals import HttpError
from edgekit.gateway.shown import Shown

DONE = b"data: [DONE]\n\n"


def event(body: object) -> bytes:
    """One event; bytes are JSON already."""
    return b"data: " + (body if isinstance(body, bytes) else msgspec.json.encode(body)) + b"\n\n"


class Chunks:
    """Writes one answer.

    Args:
        prompt_id: the `ek-id`.
        created: Unix seconds.
        usage: whether token counts come last.
        text: whether it is a text completion.
    """

    media_type = "text/event-stream; charset=utf-8"
    waiting = b": waiting\n\n"  # a comment, which keeps proxies and clients patient

    def __init__(self, prompt_id: str, created: int, *, usage: bool, text: bool) -> None:
        kind, prefix = (
            ("text_completion", "cmpl") if text else ("chat.completion.chunk", "chatcmpl")
        )
        self._head = {"id": f"{prefix}-{prompt_id}", "object": kind, "created": created}
        self._usage, self._text = usage, text
        self._shown = Shown()

    def begin(self, model: str) -> bytes:
        """The first chunk, which names the role; a text completion has none.

        Args:
            model: that the device serves.
        """
        self._head["model"] = model
        if self._text:
            return b""
        return self._chunk({"index": 0, "delta": {"role": "assistant", "content": ""}})

    def delta(self, body: dict[str, Any]) -> bytes:
        """The chunk of a delta; empty after one was lost."""
        choice = self._shown.taken(body)
        return self._chunk(choice) if choice else b""

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

    def whole(self, completion: dict[str, Any]) -> bytes:
        """The answer as one object."""
        return msgspec.json.encode(text_completion(completion) if self._text else completion)

    def failed(self, error: HttpError) -> bytes:
        """The event of an error."""
        return event(error.body)

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
        "text": choice["message"]["content"] or "",
        "logprobs": None,
        "finish_reason": choice["finish_reason"],
    }
    shaped = {"object": "text_completion", "choices": [told]}
    return completion | shaped | {"id": completion["id"].removeprefix("chat")}

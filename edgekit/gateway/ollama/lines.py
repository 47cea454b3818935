"""A device's replies as Ollama's answer: lines of JSON (NDJSON), or one object. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

import msgspec

from edgekit.gateway.ollama import messages
from edgekit.gateway.refusals import HttpError
from edgekit.gateway.shown import Shown

_NANOSECONDS = 1_000_000  # in a millisecond
EPOCH = "1970-01-01T00:00:00Z"


class Lines:
    """Writes one answer.

    Args:
        model: as the client named it.
        created: Unix seconds.
    """

    media_type = "application/x-ndjson"

    def __init__(self, model: str, created: float) -> None:
        at = datetime.datetime.fromtimestamp(created, datetime.UTC)
        self._head = {"model": model, "created_at": at.isoformat().replace("+00:00", "Z")}
        self._shown = Shown()

    @property
    def waiting(self) -> bytes:
        """A line without a text, which keeps proxies and clients patient."""
        return self._line({})

    def begin(self, _model: str) -> bytes:
        """Nothing: the first line has text."""
        return b""

    def delta(self, body: dict[str, Any]) -> bytes:
        """The line of a delta; empty after one was lost. Calls of tools come whole at the end."""
        body["choices"][0]["delta"].pop("tool_calls", None)
        choice = self._shown.taken(body)
        return self._said(choice, ()) if choice else b""

    def final(self, completion: dict[str, Any]) -> bytes:
        """The last lines: what no delta has brought, then why it ended and the counts.

        Raises:
            HttpError: see `Shown.rest` and `messages.calls`.
        """
        choice = completion["choices"][0]
        rest = self._shown.rest(choice)
        return self._said(rest, _calls(choice)) + self._line({}, **_ended(completion))

    def whole(self, completion: dict[str, Any]) -> bytes:
        """The answer as one object; raises HttpError, see `messages.calls`."""
        choice = completion["choices"][0]
        told = choice | {"delta": choice["message"]}
        return self._told(told, _calls(choice), **_ended(completion))

    def failed(self, error: HttpError) -> bytes:
        """The line of an error."""
        return refusal(error) + b"\n"

    def _said(self, choice: dict[str, Any], calls: Iterable[dict[str, Any]]) -> bytes:
        """The line of a choice; empty where it has nothing."""
        delta = choice.get("delta") or {}
        told = [delta.get("content"), delta.get("reasoning_content"), choice.get("logprobs")]
        if not calls and not any(told):
            return b""
        return self._told(choice, calls, done=False) + b"\n"

    def _told(self, choice: dict[str, Any], calls: Iterable[dict[str, Any]], **more: Any) -> bytes:
        delta = choice["delta"]
        message: dict[str, Any] = {"role": "assistant", "content": delta.get("content") or ""}
        if delta.get("reasoning_content"):
            message["thinking"] = delta["reasoning_content"]
        if calls:
            message["tool_calls"] = calls
        if choice.get("logprobs"):
            more["logprobs"] = choice["logprobs"]["content"]
        return msgspec.json.encode({**self._head, "message": message, **more})

    def _line(self, delta: dict[str, Any], **more: Any) -> bytes:
        return self._told({"delta": delta}, (), **{"done": False, **more}) + b"\n"


def _calls(choice: dict[str, Any]) -> list[dict[str, Any]]:
    given = choice["message"].get("tool_calls") or []
    return messages.calls(given, is_cut=choice["finish_reason"] == "length")


def _ended(completion: dict[str, Any]) -> dict[str, Any]:
    """Why an answer ended, its tokens, and the device's times in nanoseconds."""
    reason, usage = completion["choices"][0]["finish_reason"], completion["usage"]
    timings = completion.get("timings") or {}

    def spent(*names: str) -> int:
        return round(sum(timings.get(name) or 0.0 for name in names) * _NANOSECONDS)

    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": spent("queue_ms", "prompt_ms", "predicted_ms"),
        "load_duration": 0,
        "prompt_eval_count": usage["prompt_tokens"],
        "prompt_eval_duration": spent("prompt_ms"),
        "eval_count": usage["completion_tokens"],
        "eval_duration": spent("predicted_ms"),
    }


def refusal(error: HttpError) -> bytes:
    """An error in Ollama's shape, which has a text alone: the field is named in it."""
    text = error.message
    if error.param and error.param not in text:
        text = f"{error.param}: {text}"
    return msgspec.json.encode({"error": text})


def tags(models: Iterable[str]) -> dict[str, Any]:
    """The list of `/api/tags`. What no card says is empty or zero; the time is `EPOCH`."""
    details = {"format": "onnx", "family": "", "families": None, "parameter_size": "",
               "quantization_level": "", "parent_model": ""}  # fmt: skip
    return {
        "models": [
            {"name": name, "model": name, "modified_at": EPOCH, "size": 0, "digest": "",
             "details": details}
            for name in models
        ]
    }  # fmt: skip

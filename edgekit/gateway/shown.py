"""What a stream has shown of an answer, and what of the whole answer is left to show. Pure."""

from __future__ import annotations

from typing import Any

from edgekit.gateway.refusals import HttpError

ANEW = "the device had to begin anew, and its answer is not the one that was shown"


class Shown:
    """Grows by each delta that is passed on.

    Deltas come with QoS 0 and may be lost; the final has the whole answer. After a gap no delta is
    passed on any more, and the final's rest closes the stream.
    """

    def __init__(self) -> None:
        self._next = 0  # the number of the delta that is due
        self._gap = False
        self._texts: dict[str, str] = {}
        self._names: dict[int, str] = {}  # of each tool call's function
        self._arguments: dict[int, str] = {}
        self._tokens = 0  # whose log-probabilities were shown

    def taken(self, body: dict[str, Any]) -> dict[str, Any]:
        """A delta's choice, which is passed on; empty after one was lost."""
        self._gap = self._gap or body["seq"] != self._next
        self._next += 1
        if self._gap:
            return {}
        choice: dict[str, Any] = body["choices"][0]
        self._add(choice)
        return choice

    def _add(self, choice: dict[str, Any]) -> None:
        for name, piece in choice["delta"].items():
            if isinstance(piece, str) and name != "role":
                self._texts[name] = self._texts.get(name, "") + piece
        for call in choice["delta"].get("tool_calls") or []:
            index = call["index"]
            function, before = call.get("function", {}), self._arguments.get(index, "")
            self._names[index] = self._names.get(index) or function.get("name") or ""
            self._arguments[index] = before + (function.get("arguments") or "")
        self._tokens += len((choice.get("logprobs") or {}).get("content") or [])

    def rest(self, choice: dict[str, Any]) -> dict[str, Any]:
        """What of the final's choice was not shown, as the choice of a delta.

        Raises:
            HttpError: what was shown is not the beginning of it.
        """
        delta: dict[str, Any] = {}
        message = dict.fromkeys(self._texts) | {"tool_calls": []} | choice["message"]
        for name, value in message.items():
            if name == "tool_calls":
                if calls := self._calls(value or []):
                    delta[name] = calls
            elif name != "role" and (
                left := _left(value if isinstance(value, str) else "", self._texts.get(name, ""))
            ):
                delta[name] = left
        made: dict[str, Any] = {"index": 0, "delta": delta}
        tokens = ((choice.get("logprobs") or {}).get("content") or [])[self._tokens :]
        if tokens:
            made["logprobs"] = choice["logprobs"] | {"content": tokens}
        return made if delta or tokens else {}

    def _calls(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(calls) < len(self._arguments):
            raise HttpError(500, "internal", ANEW)
        made = []
        for index, call in enumerate(calls):
            name, whole = call["function"]["name"], call["function"]["arguments"]
            if name != self._names.get(index, name):
                raise HttpError(500, "internal", ANEW)
            if index not in self._arguments:
                made.append({"index": index, **call})
            elif left := _left(whole, self._arguments[index]):
                made.append({"index": index, "function": {"arguments": left}})
        return made


def _left(whole: str, shown: str) -> str:
    if not whole.startswith(shown):
        raise HttpError(500, "internal", ANEW)
    return whole[len(shown) :]

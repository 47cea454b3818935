"""The messages of a conversation so far, and their file. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys
from edgekit.errors import UsageError

MAX_FILE_BYTES = 64 << 20
ROLES = ("user", "assistant")
LOST = ("tool_calls", "tool_call_id", "function_call", "audio", "refusal")
"""What a message may say beside its text that a chat has no place for."""


class ChatLog(msgspec.Struct, frozen=True):
    """The system message, and the messages of both sides in turns.

    Attributes:
        system: empty where there is none.
        messages: of the user and the assistant, as a chat completion's body has them; an even
            number.
    """

    system: str = ""
    messages: tuple[dict[str, Any], ...] = ()

    @property
    def questions(self) -> int:
        """How many messages of the user there are, all with their answers."""
        return len(self.messages) // 2

    def asking(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """The messages of a prompt that goes on with this one."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages, message]

    def answered(self, message: dict[str, Any], text: str) -> ChatLog:
        """The log after an answer to that message."""
        answer = {"role": "assistant", "content": text}
        return msgspec.structs.replace(self, messages=(*self.messages, message, answer))

    def without_oldest(self, count: int) -> ChatLog:
        """The log without its oldest questions."""
        return msgspec.structs.replace(self, messages=self.messages[2 * count :])


def text_of(message: dict[str, Any]) -> str:
    """The text of a message; a picture in it becomes a word."""
    content = message["content"]
    if isinstance(content, str):
        return content
    parts = ("[picture]" if each.get("type") != "text" else each.get("text") for each in content)
    return "\n".join(str(part) for part in parts)


def as_json(log: ChatLog) -> bytes:
    """The log as the body of a chat completion, which `read` and every client of OpenAI's takes."""
    messages = [{"role": "system", "content": log.system}] if log.system else []
    return (
        msgspec.json.format(msgspec.json.encode({"messages": [*messages, *log.messages]})) + b"\n"
    )


def as_markdown(log: ChatLog) -> bytes:
    """The log for people to read."""
    turns = [("system", log.system)] if log.system else []
    turns += [(message["role"], text_of(message)) for message in log.messages]
    return "\n".join(f"## {role}\n\n{text}\n" for role, text in turns).encode()


def read(data: bytes, file: str) -> ChatLog:
    """Read what `as_json` wrote, or what another client keeps of a chat.

    Args:
        file: its name, for errors.

    Raises:
        UsageError: it is no conversation in turns.
    """
    try:
        messages = msgspec.json.decode(data, type=_Saved).messages
        check_keys(data)
        system = ""
        for number, message in enumerate(messages):
            if lost := next((key for key in LOST if message.get(key)), ""):
                raise ValueError(f"message {number + 1} has {lost}, which a chat does not keep")
        if messages and messages[0].get("role") in ("system", "developer"):
            system, messages = _system_of(messages[0]["content"]), messages[1:]
        for number, message in enumerate(messages):
            if message.get("role") != ROLES[number % 2]:
                raise ValueError(f"message {number + 1} is not the {ROLES[number % 2]}'s")
            text_of(message)
        if len(messages) % 2:
            raise ValueError("its last message has no answer")
    except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} is no conversation",
            str(error) or type(error).__name__,
            "load what `/save FILE.json` wrote: a JSON object whose `messages` take turns",
        ) from None
    kept = tuple({key: each[key] for key in ("role", "content")} for each in messages)
    return ChatLog(system, kept)


def _system_of(content: Any) -> str:
    """The text of a system message, as a device reads it; raises ValueError."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or any(each["type"] != "text" for each in content):
        raise ValueError("its system message is no text")
    return "".join(str(each["text"]) for each in content)


def half(log: ChatLog) -> int:
    """How many questions the older half of the log has, at least one where there is one."""
    return (log.questions + 1) // 2


class _Saved(msgspec.Struct):
    messages: list[dict[str, Any]]

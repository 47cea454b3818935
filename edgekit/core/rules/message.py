"""What a rule's prompt is made of, and what is published as its answer."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgekit.core.chat.completion import Completion, FinishReason, Usage
from edgekit.core.chat.logprobs import Logprobs
from edgekit.core.protocol import wire
from edgekit.core.protocol.payloads import Count
from edgekit.core.protocol.wire import Outbound
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys

HOPS = "ek-hop"  # user property: through how many rules a message has gone
MAX_HOPS = 3  # a message that went through so many is in a loop
MAX_MESSAGE_BYTES = 16 << 10
MAX_FILL_BYTES = 96 << 10  # of all messages of one prompt: its body has room for their text


class HeardMessage(msgspec.Struct, frozen=True):
    """A message that a rule took: its topic, and its payload, which is JSON."""

    topic: str
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes that the journal keeps of it."""
        return len(self.topic.encode()) + len(self.payload)


class Fill(msgspec.Struct, frozen=True):
    """What a rule's template is rendered with; the journal keeps it in the place of a body."""

    rule: str
    device: str
    messages: list[HeardMessage]

    def variables(self) -> dict[str, Any]:
        """The names that a template may use."""
        read = [msgspec.json.decode(one.payload) for one in self.messages]
        topics = [one.topic for one in self.messages]
        return {
            "message": read[-1],
            "messages": read,
            "topic": topics[-1],
            "topics": topics,
            "device": self.device,
            "rule": self.rule,
        }


VARIABLES = frozenset(("message", "messages", "topic", "topics", "device", "rule"))


class Origin(msgspec.Struct, frozen=True):
    """Where a rule's prompt comes from; of the latest message, where it has several.

    Attributes:
        rule: its name.
        topic: the message's.
        messages: how many the prompt has.
        hops: through how many rules the answer will have gone.
    """

    rule: str
    topic: str
    messages: int
    hops: int


class RuleAnswer(msgspec.Struct, frozen=True):
    """What a device publishes as the answer of a rule.

    `id` is the same in every repeat of the answer. `topic` is that of the latest of so many
    `messages`, `created` is in Unix seconds. `content` is the text; it may be cut where
    `finish_reason` is `length`. `logprobs` are there where the rule's body asks for them.
    """

    id: str
    rule: str
    device: str
    topic: str
    messages: Count
    hops: Count
    created: Count
    model: str
    content: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: Logprobs | UnsetType = UNSET


def unreadable(payload: bytes) -> bool:
    """Whether a payload is no JSON that every reader reads alike."""
    try:
        msgspec.json.decode(payload)
        check_keys(payload)
    except UNREADABLE:
        return True
    return False


def hops_of(message: wire.Inbound) -> int:
    """Through how many rules a message has gone; `MAX_HOPS` where the property is no number."""
    told = message.property(HOPS)
    if not told:
        return 0
    return int(told) if len(told) == 1 and told in "0123456789" else MAX_HOPS


def answer_message(
    to: wire.ReplyTo, origin: Origin, completion: bytes, expiry_seconds: int
) -> Outbound:
    """Make the message of a rule's answer from its `chat.completion`."""
    whole = msgspec.json.decode(completion, type=Completion)
    (choice,) = whole.choices
    answer = RuleAnswer(
        id=to.prompt_id,
        rule=origin.rule,
        device=to.device,
        topic=origin.topic,
        messages=origin.messages,
        hops=origin.hops,
        created=whole.created,
        model=whole.model,
        content=choice.message.content or "",
        finish_reason=choice.finish_reason,
        usage=whole.usage,
        logprobs=choice.logprobs,
    )
    user = [
        ("ek-id", to.prompt_id),
        ("ek-dev", to.device),
        ("ek-rule", origin.rule),
        (HOPS, str(origin.hops)),
    ]
    if to.traceparent:
        user.append((wire.TRACEPARENT, to.traceparent))
    return Outbound(
        to.topic,
        msgspec.json.encode(answer),
        expiry_seconds=max(1, expiry_seconds),
        user=tuple(user),
    )

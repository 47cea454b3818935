"""The two other encodings of protocol v1 (docs/protocol): a JSON envelope, and CBOR.

A client of MQTT 3.1.1 has no properties: the envelope holds them as keys around the body and around
each reply. A client that sends CBOR gets CBOR back. These functions translate at the edge, and the
session's decisions do not depend on the encoding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgekit.core.protocol import cbor, topics, wire
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys

VERSIONS = (1,)
MAX_DEADLINE_MS = wire.MAX_EXPIRY_SECONDS * 1000


class Head(msgspec.Struct, frozen=True):
    """The keys that make a payload an envelope of any version; their values stay undecoded."""

    v: msgspec.Raw
    reply_to: str
    id: msgspec.Raw = msgspec.Raw(b"null")
    want: msgspec.Raw = msgspec.Raw(b"null")
    traceparent: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def served(self) -> bool:
        """Whether the agent serves this version; `true` and `1.0` are no versions."""
        return bytes(self.v) in (b"%d" % version for version in VERSIONS)

    @property
    def user(self) -> tuple[tuple[str, str], ...]:
        """The user properties that these keys stand for; unusable values are left out."""
        keys = {"ek-id": self.id, "ek-want": self.want, wire.TRACEPARENT: self.traceparent}
        texts = ((name, _text(value)) for name, value in keys.items())
        return tuple((name, text) for name, text in texts if text)


class Envelope(msgspec.Struct, frozen=True):
    """A prompt in an envelope; the agent ignores unknown keys.

    Attributes:
        id: as `ek-id`.
        reply_to: as the Response Topic.
        deadline_ms: milliseconds from the prompt's arrival at the device.
        body: the chat-completions object.
        want: as `ek-want`.
    """

    v: Literal[1]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=wire.MAX_ID_CHARS)]
    reply_to: str
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEADLINE_MS)]
    body: msgspec.Raw
    want: str = ""


class ReplyEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """A reply in an envelope.

    Only `final` and `error` have a `status`; `traceparent` repeats the prompt's.
    """

    v: Literal[1] = 1
    kind: str
    seq: int
    id: str
    dev: str
    status: int | msgspec.UnsetType = msgspec.UNSET
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    payload: msgspec.Raw


def opened(message: wire.Inbound) -> wire.Inbound:
    """Set a message's encoding, and the properties that its envelope stands for.

    An envelope is a message without a Response Topic whose payload is an object with `v` and
    `reply_to`.
    """
    if message.response_topic:
        cbor_sent = wire.media_type(message.content_type) == wire.CBOR
        return msgspec.structs.replace(message, encoding="cbor" if cbor_sent else "")
    head = _head(message.payload)
    if head is None:
        return message
    return msgspec.structs.replace(
        message,
        response_topic=head.reply_to,
        correlation=b"",
        user=head.user,
        encoding="envelope",
    )


def check_version(message: wire.Inbound) -> None:
    """Check an envelope's version; raises ProtocolError `unsupported_version`."""
    if message.encoding != "envelope":
        return
    head = _head(message.payload)
    if head is None or not head.served:
        served = ", ".join(map(str, VERSIONS))
        raise wire.ProtocolError("unsupported_version", f"served versions (v): {served}", "v")


def parse_prompt(
    message: wire.Inbound, reply: wire.ReplyTo, max_bytes: int = wire.MAX_BODY_BYTES
) -> wire.InboundPrompt:
    """Parse a prompt that `opened` returned, in any encoding, as `wire.parse_prompt` does.

    Raises:
        ProtocolError: holds the code for the reply to the requester.
    """
    if message.encoding != "envelope":
        return wire.parse_prompt(message, reply, max_bytes)
    check_version(message)
    try:
        envelope = msgspec.json.decode(message.payload, type=Envelope)
        check_keys(message.payload)
    except UNREADABLE as error:
        raise wire.ProtocolError("invalid_request", f"the envelope: {error}") from None
    body = bytes(envelope.body)
    wire.check_size(body, max_bytes)
    return wire.InboundPrompt(
        requester=topics.requester_of(message.topic),
        reply=reply,
        expiry_seconds=envelope.deadline_ms / 1000,
        payload=body,
    )


def parse_control(message: wire.Inbound) -> wire.Control | None:
    """Parse a control message in any encoding; None when the message is no control message."""
    if wire.media_type(message.content_type) != wire.CBOR or message.encoding == "envelope":
        return wire.parse_control(message.payload)
    try:
        return msgspec.convert(cbor.decode(message.payload), wire.Control)
    except UNREADABLE:
        return None


def reply_message(
    to: wire.ReplyTo, kind: str, payload: bytes, *, seq: int, expiry_seconds: int, status: int = 200
) -> wire.Outbound:
    """Encode a JSON payload as a reply (`ReplyTo.message`), in the requester's encoding."""
    message = to.message(kind, payload, seq=seq, expiry_seconds=expiry_seconds, status=status)
    if to.encoding == "cbor":
        return msgspec.structs.replace(
            message, payload=cbor.from_json(payload), content_type=wire.CBOR
        )
    if to.encoding != "envelope":
        return message
    answer = ReplyEnvelope(
        kind=kind,
        seq=seq,
        id=to.prompt_id,
        dev=to.device,
        status=status if kind in wire.LAST_KINDS else msgspec.UNSET,
        traceparent=to.traceparent or msgspec.UNSET,
        payload=msgspec.Raw(payload),
    )
    return msgspec.structs.replace(message, payload=msgspec.json.encode(answer))


def _text(raw: msgspec.Raw) -> str:
    """Decode a string of at most `MAX_ID_CHARS` characters; empty for anything else."""
    try:
        text = msgspec.json.decode(raw, type=str)
    except UNREADABLE:
        return ""
    return text if len(text) <= wire.MAX_ID_CHARS else ""


def _head(payload: bytes) -> Head | None:
    try:
        return msgspec.json.decode(payload, type=Head)
    except UNREADABLE:
        return None

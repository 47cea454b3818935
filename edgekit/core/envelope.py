"""The two other ways to speak protocol v1 (docs/protocol): a JSON envelope, and CBOR.

A client of MQTT 3.1.1 has no properties: what they say is in keys around the body, and around each
reply. A client that sends CBOR is answered in CBOR. What is decided of a prompt does not depend on
how it is written: these functions stand between `wire` and what is decided.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgekit.core import cbor, topics, wire

VERSIONS = (1,)
MAX_DEADLINE_MS = wire.MAX_EXPIRY_SECONDS * 1000


class Head(msgspec.Struct, frozen=True):
    """What makes a payload an envelope, of whatever version; what is large stays bytes."""

    v: msgspec.Raw
    reply_to: str
    id: msgspec.Raw = msgspec.Raw(b"null")
    want: msgspec.Raw = msgspec.Raw(b"null")
    traceparent: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def served(self) -> bool:
        """Whether its version is; `true` and `1.0` are no versions."""
        return bytes(self.v) in (b"%d" % version for version in VERSIONS)

    @property
    def user(self) -> tuple[tuple[str, str], ...]:
        """The user properties that it stands for, where they can be ones."""
        keys = {"ek-id": self.id, "ek-want": self.want, wire.TRACEPARENT: self.traceparent}
        texts = ((name, _text(value)) for name, value in keys.items())
        return tuple((name, text) for name, text in texts if text)


class Envelope(msgspec.Struct, frozen=True):
    """A prompt; keys that are not known are ignored.

    Attributes:
        id: as `ek-id`.
        reply_to: as the Response Topic.
        deadline_ms: from when it arrives at the device.
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
    """A reply; `status` is there on `final` and `error`, `traceparent` where the prompt had one."""

    v: Literal[1] = 1
    kind: str
    seq: int
    id: str
    dev: str
    status: int | msgspec.UnsetType = msgspec.UNSET
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    payload: msgspec.Raw


def opened(message: wire.Inbound) -> wire.Inbound:
    """The message with its encoding, and the properties that its envelope stands for.

    An envelope is a message without a Response Topic whose payload is an object with `v` and
    `reply_to`.
    """
    if message.response_topic:
        cbor_sent = message.content_type == wire.CBOR
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
    """Raises: ProtocolError `unsupported_version`, for an envelope of another version."""
    if message.encoding != "envelope":
        return
    head = _head(message.payload)
    if head is None or not head.served:
        served = ", ".join(map(str, VERSIONS))
        raise wire.ProtocolError("unsupported_version", f"served versions (v): {served}", "v")


def parse_prompt(message: wire.Inbound, reply: wire.ReplyTo) -> wire.InboundPrompt:
    """`wire.parse_prompt` of a message that was `opened`, whichever way it is written.

    Raises:
        ProtocolError: with the code that the requester is answered.
    """
    if message.encoding != "envelope":
        return wire.parse_prompt(message, reply)
    check_version(message)
    try:
        envelope = msgspec.json.decode(message.payload, type=Envelope)
    except wire.UNREADABLE as error:
        raise wire.ProtocolError("invalid_request", f"the envelope: {error}") from None
    body = bytes(envelope.body)
    wire.check_size(body)
    return wire.InboundPrompt(
        requester=topics.requester_of(message.topic),
        reply=reply,
        expiry_seconds=envelope.deadline_ms / 1000,
        payload=body,
    )


def parse_control(message: wire.Inbound) -> wire.Control | None:
    """The control message, whichever way it is written, or None when it is not one."""
    if message.content_type != wire.CBOR or message.encoding == "envelope":
        return wire.parse_control(message.payload)
    try:
        return msgspec.convert(cbor.decode(message.payload), wire.Control)
    except wire.UNREADABLE:
        return None


def reply_message(
    to: wire.ReplyTo, kind: str, payload: bytes, *, seq: int, expiry_seconds: int, status: int = 200
) -> wire.Outbound:
    """`Reply.message` of a JSON payload, in the encoding that the requester speaks."""
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
    """A string of at most `MAX_ID_CHARS`, else an empty one."""
    try:
        text = msgspec.json.decode(raw, type=str)
    except wire.UNREADABLE:
        return ""
    return text if len(text) <= wire.MAX_ID_CHARS else ""


def _head(payload: bytes) -> Head | None:
    try:
        return msgspec.json.decode(payload, type=Head)
    except wire.UNREADABLE:
        return None

"""Protocol v1 on MQTT 5: properties, messages and errors (docs/protocol).

Pure values and rules; `edgekit.mqtt` transports them. Section numbers are those of the OASIS
MQTT 5.0 standard.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast

import msgspec

from edgekit.core import pictures
from edgekit.core.config import MAX_MESSAGES
from edgekit.core.protocol import payloads, topics
from edgekit.core.quality import QualityReport
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys
from edgekit.errors import EdgekitError

MAX_BODY_BYTES = 128 * 1024  # also of the texts of a body with pictures
# The largest body that any device takes, and the topic and the properties that come with it
LARGEST_PROMPT_BYTES = pictures.MOST_BODY_BYTES + (64 << 10)
MAX_EXPIRY_SECONDS = 3600
MAX_CORRELATION_BYTES = 64
MAX_RESPONSE_TOPIC_CHARS = 512  # the journal keeps it with the prompt
MAX_RESPONSE_TOPIC_LEVELS = 32  # a publish below 200 levels makes Mosquitto end the connection
MAX_ERROR_CHARS = 500  # keeps an error small that repeats the requester's text
MAX_ID_CHARS = payloads.MAX_ID_CHARACTERS
JSON = "application/json"
CBOR = "application/cbor"
LAST_KINDS = ("final", "error")  # the reply that ends a prompt has one of these

# W3C Trace Context, 3.2.2: version, trace id, parent id, flags; neither id is all zeros. A version
# after 00 may go on after another dash; ff is none.
TRACEPARENT = "traceparent"
_IDS = r"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rf"(?:00{_IDS}|(?!00|ff)[0-9a-f]{{2}}{_IDS}(?:-[!-~]{{0,64}})?)\Z")

# Control characters and non-characters: a broker may end the connection of a client that sends one
# in a topic or property (§1.5.4). Inside JSON and CBOR they pass the broker and reach the agent.
_NON_CHARACTERS = "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
_UNSENDABLE = re.compile(f"[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NON_CHARACTERS}]")

# code: (status, whether the same prompt can succeed later or elsewhere)
CODES: dict[payloads.Code, tuple[int, bool]] = {
    "invalid_request": (400, False),
    "unsupported_parameter": (400, False),
    "context_length_exceeded": (400, False),
    "model_not_found": (404, False),
    "deadline_exceeded": (408, True),
    "id_conflict": (409, False),
    "payload_too_large": (413, False),
    "unsupported_media_type": (415, False),
    "invalid_schema": (422, False),
    "queue_full": (429, True),
    "rate_limited": (429, True),
    "cancelled": (499, False),
    "internal": (500, True),
    "worker_crashed": (500, True),
    "loading": (503, True),
    "draining": (503, True),
    "thermal": (503, True),
    "no_storage": (503, True),
    "out_of_memory": (503, True),
    "unsupported_version": (505, False),
}
# A prompt that ended with this code got no answer: the requester may send the same ek-id again.
HANDED_BACK = ("draining",)


class ProtocolError(EdgekitError):
    """A prompt that ended in `error`: the device raises this, and so does the requester.

    Attributes:
        code: one of `CODES`.
        param: the field of the body that caused the error, or empty.
        retry_after_ms: milliseconds until a retry makes sense, or None.
    """

    def __init__(
        self, code: str, message: str, param: str = "", retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message, why=f"{code}" + (f", field {param}" if param else ""))
        self.code = cast(payloads.Code, code)
        self.param = param
        self.retry_after_ms = retry_after_ms
        self.status, self.retryable = CODES.get(self.code, (500, False))

    def encode(self) -> bytes:
        """Encode the payload of an `error` message."""
        detail = payloads.ErrorDetail(
            code=self.code,
            message=self.what[:MAX_ERROR_CHARS],
            type="invalid_request_error" if self.status < 429 else "server_error",
            param=self.param[:MAX_ERROR_CHARS] or None,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
        )
        return msgspec.json.encode(payloads.Error(detail))

    @classmethod
    def decode(cls, payload: bytes) -> ProtocolError:
        """Decode the payload of an `error` message from an agent of any version."""
        try:
            error = msgspec.json.decode(payload)["error"]
            wait = error.get("retry_after_ms")
            return cls(
                str(error["code"]),
                str(error["message"]),
                str(error.get("param") or ""),
                wait if type(wait) is int and 0 <= wait <= MAX_EXPIRY_SECONDS * 1000 else None,
            )
        except (*UNREADABLE, KeyError, TypeError, AttributeError):
            return cls("internal", "the device answered with an error that cannot be read")


class Outbound(msgspec.Struct, frozen=True):
    """A message to publish: topic, payload and the MQTT 5 properties that edgekit uses."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    response_topic: str = ""  # §3.3.2.3.5
    correlation: bytes = b""  # §3.3.2.3.6
    expiry_seconds: int | None = None  # §3.3.2.3.3
    content_type: str = JSON  # §3.3.2.3.9
    user: tuple[tuple[str, str], ...] = ()  # §3.3.2.3.7


class Inbound(msgspec.Struct, frozen=True):
    """A received message; `token` identifies it for its PUBACK."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    response_topic: str = ""
    correlation: bytes = b""
    expiry_seconds: int | None = None
    content_type: str = ""
    user: tuple[tuple[str, str], ...] = ()
    token: Any = None
    encoding: str = ""  # as in `ReplyTo`; `envelope.opened` sets it

    def property(self, name: str) -> str:
        """The first user property with this name, or empty."""
        return next((value for key, value in self.user if key == name), "")


class ReplyTo(msgspec.Struct, frozen=True):
    """The address and encoding of the replies to one prompt."""

    topic: str
    correlation: bytes
    prompt_id: str
    device: str
    final_only: bool  # `ek-want=final`: the device sends exactly one reply
    encoding: str = ""  # empty: JSON with properties; else "cbor" or "envelope"
    traceparent: str = ""  # the requester's; every reply repeats it

    def message(
        self, kind: str, payload: bytes, *, seq: int, expiry_seconds: int, status: int = 200
    ) -> Outbound:
        """Make a reply of `kind`: deltas have QoS 0, all other kinds QoS 1."""
        user: tuple[tuple[str, str], ...] = (
            ("ek-kind", kind),
            ("ek-seq", str(seq)),
            ("ek-id", self.prompt_id),
            ("ek-dev", self.device),
        )
        if kind in LAST_KINDS:
            user += (("ek-status", str(status)),)
        if self.traceparent:
            user += ((TRACEPARENT, self.traceparent),)
        return Outbound(
            topic=self.topic,
            payload=payload,
            qos=0 if kind == "delta" else 1,
            correlation=self.correlation,
            expiry_seconds=max(1, expiry_seconds),
            user=user,
        )


class InboundPrompt(msgspec.Struct, frozen=True):
    """A prompt with a reply address and a deadline, its body not yet parsed."""

    requester: str
    reply: ReplyTo
    expiry_seconds: float
    payload: bytes
    named: bool = True  # False: its id comes from its Correlation Data, it has no ek-id


def address_of(message: Inbound, device: str) -> ReplyTo | None:
    """The reply address of a prompt, or None: the agent then sends no reply at all.

    MQTT does not name a message's publisher. The agent accepts a Response Topic only below the
    requester's own name, which the broker's ACL ties to the account.
    It ignores a retained prompt, which the broker would deliver again at every subscribe.
    """
    # `parse_prompt` refuses longer Correlation Data; its error needs an id that is not too long
    prompt_id = message.property("ek-id") or message.correlation[:MAX_CORRELATION_BYTES].hex()
    requester = topics.requester_of(message.topic)
    if message.retain or not may_be_answered(requester, message.response_topic, prompt_id):
        return None
    return ReplyTo(
        topic=message.response_topic,
        correlation=message.correlation,
        prompt_id=prompt_id,
        device=device,
        final_only=message.property("ek-want") == "final",
        encoding=message.encoding,
        traceparent=traceparent_of(message),
    )


def control_address_of(message: Inbound, control: Control, device: str) -> ReplyTo | None:
    """The reply address of a control message; None: replies go to its prompt's address."""
    if len(message.correlation) > MAX_CORRELATION_BYTES or len(control.id) > MAX_ID_CHARS:
        return None
    requester = topics.requester_of(message.topic)
    if not may_be_answered(requester, message.response_topic, control.id):
        return None
    return ReplyTo(
        message.response_topic,
        message.correlation,
        control.id,
        device,
        final_only=False,
        encoding=message.encoding,
        traceparent=traceparent_of(message),
    )


def traceparent_of(message: Inbound) -> str:
    """A message's W3C trace context; empty when it is missing or invalid."""
    given = message.property(TRACEPARENT)
    return given if _TRACEPARENT.match(given) else ""


def may_be_answered(requester: str, topic: str, prompt_id: str) -> bool:
    """Whether a Response Topic lies below the requester's name, and topic and id can be sent.

    The journal may hold prompts of an older agent that did not check this.
    """
    prefix = topics.response_prefix(requester)
    return bool(
        requester
        and topic.startswith(prefix)
        and len(prefix) < len(topic) <= MAX_RESPONSE_TOPIC_CHARS
        and topic.count("/") < MAX_RESPONSE_TOPIC_LEVELS
        and not any(c in topic for c in "+#")
        and not _UNSENDABLE.search(topic + prompt_id)
    )


def max_body_bytes(takes_pictures: bool, images_per_prompt: int = 0) -> int:
    """The largest body that a device takes.

    Args:
        takes_pictures: whether its model does; any other device takes `MAX_BODY_BYTES`.
        images_per_prompt: of the device's settings. Above 2 the bound grows: it then has room for
            that many pictures as clients send them, at most for `pictures.MOST_BODY_BYTES`.
    """
    if not takes_pictures:
        return MAX_BODY_BYTES
    asked = MAX_BODY_BYTES + images_per_prompt * pictures.SEND_BYTES * 4 // 3  # in base64
    return min(max(pictures.MAX_PICTURE_BODY_BYTES, asked), pictures.MOST_BODY_BYTES)


def parse_prompt(
    message: Inbound, reply: ReplyTo, max_bytes: int = MAX_BODY_BYTES
) -> InboundPrompt:
    """Check the properties of a prompt whose reply address is valid, and its body's size.

    Raises:
        ProtocolError: holds the code for the reply to the requester.
    """
    if not reply.prompt_id or len(message.correlation) > MAX_CORRELATION_BYTES:
        raise ProtocolError(
            "invalid_request",
            f"Correlation Data of 1 to {MAX_CORRELATION_BYTES} bytes or an ek-id is required",
        )
    if not 1 <= len(reply.prompt_id) <= MAX_ID_CHARS:
        raise ProtocolError("invalid_request", "ek-id is too long")
    if not message.expiry_seconds:
        raise ProtocolError(
            "invalid_request",
            f"a Message Expiry Interval of 1 to {MAX_EXPIRY_SECONDS} seconds is required",
        )
    if media_type(message.content_type) not in ("", JSON, CBOR):
        raise ProtocolError(
            "unsupported_media_type", f"{message.content_type} is not served; send {JSON} or {CBOR}"
        )
    check_size(message.payload, max_bytes)
    return InboundPrompt(
        requester=topics.requester_of(message.topic),
        reply=reply,
        expiry_seconds=min(message.expiry_seconds, MAX_EXPIRY_SECONDS),
        payload=message.payload,
        named=bool(message.property("ek-id")),
    )


def media_type(content_type: str) -> str:
    """Return a Content Type in lower case and without its parameters (RFC 9110, section 8.3.1).

    A `charset` other than UTF-8 stays: such a text is not served.
    """
    kind, *parameters = content_type.lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' \t"') not in ("utf-8", "utf8", "us-ascii"):
            return content_type
    return kind.strip()


def check_size(body: bytes, max_bytes: int) -> None:
    """Check a body's size; raises ProtocolError `payload_too_large`."""
    if len(body) > max_bytes:
        raise ProtocolError("payload_too_large", f"{len(body)} bytes; at most {max_bytes}")


class Control(msgspec.Struct, frozen=True):
    """A control message: `{"kind": "cancel" | "query", "id": "<ek-id>"}`."""

    kind: Literal["cancel", "query"]
    id: payloads.PromptId


def parse_control(payload: bytes) -> Control | None:
    """Parse a control message; None when it is none, and the agent then sends no reply."""
    try:
        control = msgspec.json.decode(payload, type=Control)
        check_keys(payload)
    except UNREADABLE:
        return None
    return control


class CardImages(payloads.ImagesTaken, frozen=True, kw_only=True):
    """What a device takes of pictures, and as what a requester should send them.

    A body has at most `max_body_bytes`. A requester shrinks a picture to `side` pixels on its
    longer side: the grid of a square picture has no more. It shrinks the file to `bytes` bytes: all
    pictures of a prompt then fit into one body.
    """

    formats: tuple[str, ...] = pictures.FORMATS
    max_pixels: payloads.Count = pictures.MAX_PIXELS
    max_body_bytes: payloads.Count
    bytes: payloads.Count = pictures.SEND_BYTES


class Card(msgspec.Struct, frozen=True):
    """The retained card: a device's model and the limits within which it serves prompts."""

    device: payloads.Name
    release: str
    model: str
    version: str
    context_length: payloads.Count  # tokens; the bundle's, or fewer where memory is short
    max_answer_tokens: payloads.Count
    queue_limit: payloads.Count
    agent: str
    protocol: int = 1
    pools: tuple[payloads.Name, ...] = ()
    slots: payloads.Count = 1  # prompts that run side by side
    threads: payloads.Count = 0  # of the runtime; this and `spinning` are this device's choice
    spinning: bool = False
    max_beams: payloads.Count = 1
    requests_per_minute: payloads.Count = 0  # for each requester; 0: no limit
    max_messages: payloads.Count = MAX_MESSAGES
    max_prompt_tokens: payloads.Count = 0  # 0: the context is the limit
    canary_samples: payloads.Count = 0  # ended prompts that it keeps in memory; `store` refuses
    capabilities: tuple[str, ...] = ()  # `chat.capabilities`
    template_options: tuple[str, ...] = ()  # what `chat_template_kwargs` may name
    images: CardImages | msgspec.UnsetType = msgspec.UNSET  # absent: it takes no pictures


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """The retained status, by which requesters choose a device; the Will says `lost`."""

    state: payloads.DeviceState
    release: str = ""
    queue: payloads.Count = 0
    active: payloads.Count = 0
    tok_s: payloads.Measure = 0.0
    ttft_ms: payloads.Measure = 0.0
    temp_c: int | None = None  # the hottest thermal zone
    mem_free_mb: payloads.Count | None = None  # what the agent can still use
    reason: str = ""  # of `degraded`: the error code of the prompts that the device refuses
    quality: QualityReport | None = None  # of the release, once the canary has compared it
    mem_total_mb: payloads.Count | None = None  # what it may use at all
    since: payloads.Count = 0  # Unix seconds; `busy` counts as `ready`; 0: not known

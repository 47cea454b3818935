"""The payloads of replies as types; the answer itself is `chat.Completion`. Pure values.

The agent encodes these types, and docs/protocol/schemas is generated from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_ID_CHARACTERS = 128

# These bounds are for the schemas alone: no reader refuses a message for them.
Count = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0})]
Measure = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0})]
Name = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_.-]{1,64}$"})]
PromptId = Annotated[
    str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_ID_CHARACTERS})
]

Code = Literal[
    "invalid_request",
    "unsupported_parameter",
    "context_length_exceeded",
    "model_not_found",
    "deadline_exceeded",
    "id_conflict",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_schema",
    "queue_full",
    "rate_limited",
    "cancelled",
    "internal",
    "worker_crashed",
    "loading",
    "draining",
    "thermal",
    "no_storage",
    "out_of_memory",
    "unsupported_version",
]
PromptState = Literal["accepted", "running", "unknown"]
DeviceState = Literal[
    "starting", "ready", "busy", "degraded", "read_only", "draining", "offline", "lost"
]


class AcceptedPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The prompt is in the device's journal and will end in exactly one outcome.

    `position` prompts must end before it starts. It starts in about `eta_ms` milliseconds; the
    device leaves this out until it has a measurement.
    """

    position: Count
    eta_ms: Count | None = None


class DeltaContent(msgspec.Struct, frozen=True):
    """Text to append to the earlier pieces."""

    content: str


class DeltaChoice(msgspec.Struct, frozen=True):
    """The single choice of an answer."""

    index: Literal[0]
    delta: DeltaContent


class DeltaPayload(msgspec.Struct, frozen=True):
    """The next piece of the answer; `seq` counts a prompt's deltas from 0."""

    seq: Count
    choices: Annotated[tuple[DeltaChoice, ...], msgspec.Meta(min_length=1, max_length=1)]


class StatePayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reply to a `query` about a prompt that has not ended; `position` as in `accepted`."""

    state: PromptState
    position: Count | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """The reason why a prompt has no answer.

    `param` names the field of the body that caused the error. `retryable` says whether the same
    prompt can succeed later or on another device, not sooner than in `retry_after_ms`
    milliseconds.
    """

    code: Code
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    retryable: bool
    retry_after_ms: Count | None


class Error(msgspec.Struct, frozen=True):
    """The outcome of a prompt that has no answer."""

    error: ErrorDetail

"""The payloads of replies as types; the answer itself is `chat.completion.Completion`. Pure values.

The agent encodes these types, and docs/protocol/schemas is generated from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgekit.core.chat.calls import ToolCallDelta
from edgekit.core.chat.logprobs import Logprobs
from edgekit.core.pictures import SEND_SIDE

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


Digits = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^sha256:[0-9a-f]{64}$"})]
UpdateState = Literal[
    "waiting",
    "fetching",
    "staged",
    "switching",
    "trial",
    "unproven",
    "good",
    "failed",
    "refused",
]
MAX_DESIRED_BYTES = 1024
MAX_UPDATE_BYTES = 8192


class DesiredPayload(msgspec.Struct, frozen=True):
    """What a device that pulls shall run: the retained message of a device or a group.

    It is a hint and no permission: a device runs only what its signed metadata permits. `release`
    is the digest of the bundle's manifest, `name` what a person calls it, `rollout` the number of
    the rollout. `order` grows with each message for the device; its report repeats it. Without
    `switch` the device stages the release and goes on with the one that it runs.
    """

    release: Digits
    name: str
    rollout: Count
    order: Count
    switch: bool


class UpdatePayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device made of its desired state: retained, written by the device alone.

    `order` and `release` are those of the desired state; `current` is what the device runs, and
    `before` what it ran when it first heard of that release. `reason` says why it waits, failed or
    refused, or why it does not know its desired state; `next` what helps. `fetched` of `total`
    bytes are there while it fetches. It is on trial for `soak_seconds` more. `platform` is that of
    the device, like `linux/arm64`.
    """

    order: Count
    release: str
    state: UpdateState
    current: str = ""
    before: str = ""
    reason: str = ""
    next: str = ""
    fetched: Count = 0
    total: Count = 0
    soak_seconds: Measure = 0.0
    platform: str = ""


class ImagesTaken(msgspec.Struct, frozen=True):
    """What a device takes of pictures: `crops` of one picture at most, `tokens` of a square one.

    A message may bring `per_message` pictures, all messages of a prompt together `per_prompt`. The
    grid of a square picture has no more than `side` pixels on a side.
    """

    crops: Count
    tokens: Count
    per_message: Count
    per_prompt: Count
    side: Count = SEND_SIDE


class AcceptedPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The prompt is in the device's journal and will end in exactly one outcome.

    `position` prompts must end before it starts. It starts in about `eta_ms` milliseconds; the
    device leaves this out until it has a measurement.
    """

    position: Count
    eta_ms: Count | None = None


class DeltaContent(msgspec.Struct, frozen=True):
    """Text, thinking and pieces of tool calls to append to the earlier ones; absent: none."""

    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[ToolCallDelta, ...] | UnsetType = UNSET


class DeltaChoice(msgspec.Struct, frozen=True):
    """The single choice of an answer; `logprobs` is absent unless asked for."""

    index: Literal[0]
    delta: DeltaContent
    logprobs: Logprobs | UnsetType = UNSET


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

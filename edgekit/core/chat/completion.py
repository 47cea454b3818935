"""The body of an answer: OpenAI's `chat.completion` object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgekit.core.chat.calls import ToolCall
from edgekit.core.chat.logprobs import Logprobs, TokenLogprob
from edgekit.core.protocol.payloads import Count, Measure

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How many of a prompt's tokens the device had kept from an earlier prompt."""

    cached_tokens: Count = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one answer."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class Timings(msgspec.Struct, frozen=True):
    """The time of one answer by phase, in milliseconds; names are those of llama.cpp's server."""

    queue_ms: Measure
    prompt_ms: Measure
    first_token_ms: Measure
    predicted_ms: Measure
    predicted_per_second: Measure


class AnswerMessage(msgspec.Struct, frozen=True):
    """The whole answer, or the part that existed when the requester cancelled.

    `content` is null where there are tool calls and no text. What a thinking model thought is
    `reasoning_content`; absent where there is none.
    """

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET


class AnswerChoice(msgspec.Struct, frozen=True):
    """The single choice of an answer; `logprobs` is absent unless asked for."""

    index: Literal[0]
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: Logprobs | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True):
    """A `chat.completion` object, the payload of a `final`.

    `created` is in Unix seconds. `timings` is null when the model computed nothing. `deltas` counts
    the `delta` messages that were sent before.
    """

    id: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^chatcmpl-"})]
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Annotated[tuple[AnswerChoice, ...], msgspec.Meta(min_length=1, max_length=1)]
    usage: Usage
    timings: Timings | None
    deltas: Count


def completion(
    *,
    prompt_id: str,
    model: str,
    created: int,
    text: str,
    finish_reason: FinishReason,
    usage: Usage,
    timings: Timings | None,
    deltas: int,
    reasoning: str = "",
    calls: Sequence[ToolCall] = (),
    logprobs: Sequence[TokenLogprob] | None = None,
) -> bytes:
    """Encode a `Completion` as JSON."""
    content = None if calls and not text else text
    message = AnswerMessage("assistant", content, reasoning or UNSET, tuple(calls) or UNSET)
    shown = UNSET if logprobs is None else Logprobs(logprobs)
    return msgspec.json.encode(
        Completion(
            id=f"chatcmpl-{prompt_id}",
            object="chat.completion",
            created=created,
            model=model,
            choices=(AnswerChoice(0, message, finish_reason, shown),),
            usage=usage,
            timings=timings,
            deltas=deltas,
        )
    )

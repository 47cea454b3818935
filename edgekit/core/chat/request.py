"""The body of a prompt: OpenAI chat completions, checked strictly.

The agent refuses a field that would change the answer and that it does not serve, and names it.
`harmless` has the values that change no answer, which it takes. Bounds are those of the OpenAI API
reference where it has them. `body` reads these types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgekit.core import pictures
from edgekit.core.chat import harmless
from edgekit.core.chat.formats import ResponseFormat, Source
from edgekit.core.chat.parts import Part, Text, TextPart
from edgekit.core.config import MAX_MESSAGES

MAX_STOPS = 4
MAX_BEAMS = 8
MAX_BIASES = 1024  # tokens in `logit_bias`

StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    # An assistant's message as SDKs echo it
    refusal: harmless.Null = None
    audio: harmless.Null = None
    function_call: harmless.Null = None
    annotations: harmless.Empty = None
    tool_calls: harmless.Empty = None

    @property
    def text(self) -> str:
        """The texts of the content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def picture_count(self) -> int:
        """How many pictures the message has."""
        return len(self.picture_parts)

    @property
    def picture_parts(self) -> list[int]:
        """Which parts of the content are pictures."""
        parts = () if isinstance(self.content, str) else self.content
        return [number for number, part in enumerate(parts) if not isinstance(part, TextPart)]

    @property
    def parts(self) -> pictures.Content:
        """What the model's process gets: one string where the message has no picture."""
        if isinstance(self.content, str) or not self.picture_count:
            return self.text
        return [part.text if isinstance(part, TextPart) else part.data for part in self.content]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What OpenAI's stream adds; a final has its usage, and no reply is padded."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields of a chat-completions request that the agent serves."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    model: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[TokenId, Bias],
            # msgspec's schema does not say that the keys of JSON are strings
            msgspec.Meta(
                max_length=MAX_BIASES, extra_json_schema={"propertyNames": {"pattern": "^[0-9]+$"}}
            ),
        ]
        | None
    ) = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    num_beams: Annotated[int, msgspec.Meta(ge=1, le=MAX_BEAMS)] | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=-5, le=5)] | None = None  # of beam search
    stop: StopString | Annotated[list[StopString], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None  # false: no deltas
    # What the whole answer must look like; at most one of these
    response_format: ResponseFormat | None = None
    grammar: Source | None = None  # Lark, in llguidance's dialect
    regex: Source | None = None  # in the syntax of Rust's `regex`
    # What changes no answer. The final has its usage in any case.
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None
    # What changes none with these values
    n: harmless.One = None
    logprobs: harmless.Off = None
    top_logprobs: harmless.Zero = None
    modalities: harmless.TextOnly = None
    tools: harmless.Empty = None
    functions: harmless.Empty = None
    tool_choice: harmless.NoTool = None
    function_call: harmless.NoTool = None

    @property
    def picture_count(self) -> int:
        """How many pictures all messages have."""
        return sum(message.picture_count for message in self.messages)

    @property
    def text_bytes(self) -> int:
        """The size of all texts, in UTF-8."""
        return sum(len(message.text.encode("utf-8", "surrogatepass")) for message in self.messages)

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def answer_limit(self) -> int | None:
        """The largest number of tokens in the answer; the newer field's name wins."""
        return self.max_completion_tokens or self.max_tokens

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
from edgekit.core.chat.calls import ToolCall
from edgekit.core.chat.constraint.formats import ResponseFormat, Source
from edgekit.core.chat.logprobs import MAX_TOP
from edgekit.core.chat.parts import Part, TextPart
from edgekit.core.chat.text import Text
from edgekit.core.chat.tools.request import MAX_TOOLS, Tool, ToolChoice
from edgekit.core.config import MAX_MESSAGES

MAX_STOPS = 4
MAX_BEAMS = 8
MAX_BIASES = 1024  # tokens in `logit_bias`
MAX_OPTIONS = 16  # variables in `chat_template_kwargs`

StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenCount = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
OptionText = Annotated[Text, msgspec.Meta(max_length=256)]
TemplateValue = bool | int | float | OptionText | None
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of the conversation.

    An assistant's may have `tool_calls` and then no content; a tool's has the result of the call
    `tool_call_id`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    name: Text | None = None  # for the chat template; most have no use for it
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None  # of an assistant's message, as its answer had it
    # An assistant's message as SDKs echo it
    refusal: harmless.Null = None
    audio: harmless.Null = None
    function_call: harmless.Null = None
    annotations: harmless.Empty = None

    @property
    def text(self) -> str:
        """The texts of the content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, TextPart))

    @property
    def further(self) -> dict[str, str]:
        """What the chat template gets of the message beside its role and content."""
        named = {"name": self.name, "reasoning_content": self.reasoning_content}
        return {field: value for field, value in named.items() if value is not None}

    @property
    def turn(self) -> tuple[str, pictures.Content] | dict[str, Any]:
        """What the chat template gets: role and content, or a mapping where there is more."""
        if not self.further:
            return self.role, self.parts
        return {"role": self.role, "content": self.parts, **self.further}

    @property
    def picture_count(self) -> int:
        """How many pictures the message has."""
        return len(self.picture_parts)

    @property
    def picture_parts(self) -> list[int]:
        """Which parts of the content are pictures."""
        parts = () if isinstance(self.content, str) else self.content or ()
        return [number for number, part in enumerate(parts) if not isinstance(part, TextPart)]

    @property
    def parts(self) -> pictures.Content:
        """What the model's process gets: one string where the message has no picture."""
        if not isinstance(self.content, list) or not self.picture_count:
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
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[TokenId, Bias],
            # msgspec's schema does not say that the keys of JSON are strings
            msgspec.Meta(
                max_length=MAX_BIASES,
                extra_json_schema={"propertyNames": {"pattern": "^(0|[1-9][0-9]*)$"}},
            ),
        ]
        | None
    ) = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    chat_template_kwargs: (
        Annotated[dict[str, TemplateValue], msgspec.Meta(max_length=MAX_OPTIONS)] | None
    ) = None
    reasoning_effort: Effort | None = None
    num_beams: Annotated[int, msgspec.Meta(ge=1, le=MAX_BEAMS)] | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=-5, le=5)] | None = None  # of beam search
    stop: StopString | Annotated[list[StopString], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None  # false: no deltas
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP)] | None = None
    tools: Annotated[list[Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None  # false: at most one call
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
    # What changes none with these values
    n: harmless.One = None
    modalities: harmless.TextOnly = None
    functions: harmless.Empty = None
    function_call: harmless.NoTool = None

    @property
    def picture_count(self) -> int:
        """How many pictures all messages have."""
        return sum(message.picture_count for message in self.messages)

    @property
    def text_bytes(self) -> int:
        """The size of all texts, tools and calls, in UTF-8."""
        size = sum(len(message.text.encode("utf-8", "surrogatepass")) for message in self.messages)
        more: list[object] = [self.tools]
        for message in self.messages:
            more += [message.tool_calls, message.further]
        return size + sum(len(msgspec.json.encode(each)) for each in more if each)

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def top_logprobs_asked(self) -> int | None:
        """How many log-probabilities to name in each token's place; None: none of any token."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def answer_limit(self) -> int | None:
        """The largest number of tokens in the answer; the newer field's name wins."""
        return self.max_completion_tokens or self.max_tokens

"""The bodies of a prompt and of its answer: OpenAI chat completions, checked strictly.

The agent refuses a field that would change the answer and that it does not serve, and names it.
`harmless` has the values that change no answer, which it takes. Bounds are those of the OpenAI API
reference where it has them. A picture's base64 text is decoded while the body is read, and is kept
nowhere but in the body.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from edgekit.core import cbor, harmless, pictures
from edgekit.core.config import MAX_MESSAGES
from edgekit.core.parts import PARTS, ImageUrl, Part, Text, TextPart
from edgekit.core.payloads import Count, Measure
from edgekit.core.repeated import check_keys
from edgekit.core.wire import UNREADABLE, ProtocolError

_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
MAX_STOPS = 4
MAX_BEAMS = 8
MAX_BIASES = 1024  # tokens in `logit_bias`

StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
FinishReason = Literal["stop", "length", "cancelled"]


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
    response_format: harmless.TextFormat = None
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


def parse_body(payload: bytes, encoding: str = "") -> ChatRequest:
    """Read a chat-completions body.

    Args:
        payload: the prompt's bytes.
        encoding: "cbor"; any other value means JSON.

    Raises:
        ProtocolError: `invalid_request` or `unsupported_parameter`, with the field in `param`.
    """
    try:
        request = _decode(payload, encoding)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except UNREADABLE as error:
        language = "CBOR" if encoding == "cbor" else "JSON"
        raise ProtocolError("invalid_request", f"the body is not {language}: {error}") from None
    if encoding != "cbor":  # CBOR with a repeated key was not read
        try:
            check_keys(payload)
        except UNREADABLE as error:
            raise ProtocolError("invalid_request", str(error)) from None
    harmless.check(request, harmless.REQUEST)
    for number, message in enumerate(request.messages):
        harmless.check(message, harmless.MESSAGE, f"messages[{number}].")
        if message.picture_count and message.role != "user":
            where = f"messages[{number}].content[{message.picture_parts[0]}]"
            text = f"a message of the role {message.role} has a picture; only a user's may"
            raise ProtocolError("invalid_request", text, where)
    if request.picture_count and (request.num_beams or 1) > 1:
        text = "a prompt with pictures is answered without beam search: num_beams is 1"
        raise ProtocolError("unsupported_parameter", text, "num_beams")
    return request


def _decode(payload: bytes, encoding: str) -> ChatRequest:
    """Read the body; a field that no version of it has may be null, which says nothing.

    Raises:
        ValidationError: it is no `ChatRequest`.
        ValueError: it cannot be read at all.
    """
    if encoding == "cbor":
        read = cbor.decode(payload)
        return _converted(read)
    try:
        return msgspec.json.decode(payload, type=ChatRequest, dec_hook=pictures.decode)
    except msgspec.ValidationError as error:
        if not _UNKNOWN.search(str(error)):
            raise
    return _converted(msgspec.json.decode(payload))


def _converted(body: object) -> ChatRequest:
    return msgspec.convert(
        _without_nulls(body), ChatRequest, str_keys=True, dec_hook=pictures.decode
    )


def _without_nulls(body: object) -> object:
    """Leave out unknown null fields of the body, its messages and their parts."""
    if isinstance(body, dict):
        body = _without_unknown_nulls(body, ChatRequest)
        if isinstance(body.get("messages"), list):
            body["messages"] = [_message_without_nulls(each) for each in body["messages"]]
    return body


def _message_without_nulls(message: object) -> object:
    if isinstance(message, dict):
        message = _without_unknown_nulls(message, ChatMessage)
        if isinstance(message.get("content"), list):
            message["content"] = [_part_without_nulls(part) for part in message["content"]]
    return message


def _part_without_nulls(part: object) -> object:
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        return part
    part = _without_unknown_nulls(part, PARTS.get(kind, TextPart))
    if isinstance(part.get("image_url"), dict):
        part["image_url"] = _without_unknown_nulls(part["image_url"], ImageUrl)
    return part


def _without_unknown_nulls(fields: dict[Any, Any], kind: type[msgspec.Struct]) -> dict[Any, Any]:
    tag = kind.__struct_config__.tag_field  # content parts have one
    known = {*kind.__struct_encode_fields__, *([tag] if tag else [])}
    return {name: value for name, value in fields.items() if value is not None or name in known}


def _invalid(error: msgspec.ValidationError) -> ProtocolError:
    """Make the error of a body that is no `ChatRequest`, with the field's name."""
    text = str(error)
    at = _AT.search(text)
    unknown = _UNKNOWN.search(text)
    if unknown:
        prefix = f"{at['path']}." if at and at["path"] else ""
        param = prefix + unknown["name"]
        return ProtocolError("unsupported_parameter", f"{param} is not served by this agent", param)
    path = at["path"] if at else ""
    said = _AT.sub("", text)
    if path.endswith(".image_url") and "`str`" in said:
        said = 'image_url is an object with a `url`: {"url": "data:image/jpeg;base64,…"}'
    return ProtocolError("invalid_request", said, path)


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The choices that decide the next token; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # as a share of the likeliest token's probability
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}  # by token id
    repetition_penalty: float = 1.0
    seed: int | None = None
    num_beams: int = 1  # above 1: beam search, which uses no other field but length_penalty
    length_penalty: float = 1.0

    @property
    def plain_greedy(self) -> bool:
        """Whether every token is the bare arg-max, which the runtime can choose by itself."""
        changed = self.logit_bias or self.presence_penalty or self.frequency_penalty
        return self.temperature == 0 and self.repetition_penalty == 1.0 and not changed


_SAMPLING_FIELDS = Sampling.__struct_fields__


def sampling_of(request: ChatRequest, defaults: dict[str, Any]) -> Sampling:
    """Merge the request's choices over the bundle's defaults."""
    chosen = dict(defaults)
    for name in _SAMPLING_FIELDS:
        value = getattr(request, name)
        if value is not None:
            chosen[name] = value
    sampling = msgspec.convert(chosen, Sampling)
    if sampling.num_beams > 1 and sampling.temperature and request.temperature is None:
        # the temperature is the bundle's default, not the requester's choice
        return msgspec.structs.replace(sampling, temperature=0.0)
    return sampling


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
    """The whole text, or the part that existed when the requester cancelled."""

    role: Literal["assistant"]
    content: str


class AnswerChoice(msgspec.Struct, frozen=True):
    """The single choice of an answer."""

    index: Literal[0]
    message: AnswerMessage
    finish_reason: FinishReason


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
) -> bytes:
    """Encode a `Completion` as JSON."""
    return msgspec.json.encode(
        Completion(
            id=f"chatcmpl-{prompt_id}",
            object="chat.completion",
            created=created,
            model=model,
            choices=(AnswerChoice(0, AnswerMessage("assistant", text), finish_reason),),
            usage=usage,
            timings=timings,
            deltas=deltas,
        )
    )

"""Decides if the worker can run a prompt: its fields, its tokens, the memory of a beam search.

The tokens of pictures are counted by their headers, before a pixel is decoded. Then pictures are
decoded here; what the model sees in them is computed later, view by view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from edgekit.agent.serve.pipe import Start
from edgekit.agent.serve.worker import beam
from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.answer.thinking import opens_thinking
from edgekit.agent.serve.worker.decoder import BeamSearch, Limits
from edgekit.agent.serve.worker.pictures.sight import Eyes, Seen
from edgekit.core.chat.thinking import Marks
from edgekit.core.rules.message import Fill
from edgekit.errors import EdgekitError

_PANIC = "PanicException"  # of native code in Rust that gives up; no `Exception` of Python


class RefusedError(EdgekitError):
    """The worker cannot run the prompt; `code` is a protocol error code, `param` a field's name."""

    def __init__(self, code: str, what: str, param: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class Admitted:
    """A prompt that the worker can run.

    Attributes:
        items: its tokens, and below 0 the rows of its pictures.
        limit: how many tokens its answer may have.
        pictures: its pictures, by key.
    """

    items: list[int]
    limit: int
    pictures: Mapping[int, Seen] = field(default_factory=dict)

    @property
    def tokens(self) -> list[int]:
        """The tokens of its texts."""
        return [item for item in self.items if item >= 0] if self.pictures else self.items


def admit(
    start: Start,
    tokenizer: Tokenizer,
    limits: Limits,
    beams: BeamSearch | None,
    max_beams: int,
    eyes: Eyes | None = None,
    marks: Marks | None = None,
) -> Admitted:
    """Return what the worker computes for a prompt.

    Args:
        start: the prompt.
        tokenizer: the model's tokenizer.
        limits: the decoder's limits.
        beams: the model's beam search; None if it has none.
        max_beams: the most beams that this device serves.
        eyes: reads pictures; None if the model takes none.
        marks: around the model's thinking; None if it has none.

    Raises:
        RefusedError: the worker cannot run the prompt.
    """
    wanted = start.sampling.num_beams
    _check_fields(start, max_beams)
    start = _filled(start)
    contents = [turn[1] if isinstance(turn, tuple) else turn["content"] for turn in start.messages]
    listed = [parts for parts in contents if isinstance(parts, list)]
    encoded = [part for parts in listed for part in parts if isinstance(part, bytes)]
    if encoded and eyes is None:
        raise RefusedError("invalid_request", "this model takes no pictures", "messages")
    with _refusing_pictures():
        rows = [eyes.tokens(each) for each in encoded] if eyes else []
    pieces = _pieces(start, tokenizer, bool(encoded))
    if marks and start.constraint and opens_thinking(tokenizer, marks, pieces[-1]):
        pieces[-1] += tokenizer.encode(f"{marks.end}\n\n")  # what is constrained is the answer
    count = sum(map(len, pieces)) + sum(rows)
    said = f"the prompt has {count} tokens"
    if rows:
        said += f", {sum(rows)} of them for {'a picture' if len(rows) == 1 else 'pictures'}"
    if start.prompt_limit and count > start.prompt_limit:
        raise RefusedError(
            "context_length_exceeded",
            f"{said}; this device takes {start.prompt_limit} (max_prompt_tokens)",
            "messages",
        )
    if count >= limits.max_length:
        raise RefusedError(
            "context_length_exceeded",
            f"{said}; the context of {limits.max_length} leaves no room for an answer",
            "messages",
        )
    foreign = [token for token in start.sampling.logit_bias if token >= limits.vocabulary]
    if foreign:
        raise RefusedError(
            "invalid_request",
            f"logit_bias names token {foreign[0]}; the vocabulary has {limits.vocabulary}",
            "logit_bias",
        )
    limit = min(start.answer_limit, limits.max_length - count)
    if wanted > 1 and beams is not None:
        room = beams.room(count, limit)
        if wanted > room:
            raise RefusedError(
                "out_of_memory",
                f"num_beams {wanted}: the free memory has room for {room} beams of "
                f"{count} tokens and an answer of {limit}",
                "num_beams",
            )
    with _refusing_pictures():
        pictures = [eyes.see(each, start.requester) for each in encoded] if eyes else []
    items = list(pieces[0])
    for picture, piece in zip(pictures, pieces[1:], strict=True):
        items += [*picture.items, *piece]
    return Admitted(items, limit, {picture.key: picture for picture in pictures})


def _pieces(start: Start, tokenizer: Tokenizer, pictured: bool) -> list[list[int]]:
    """Return the tokens of the prompt's text; with pictures in pieces between these."""
    try:
        if pictured:
            return tokenizer.encode_around(start.messages, start.tools, start.options)
        return [tokenizer.encode_chat(start.messages, start.tools, start.options)]
    except EdgekitError as error:
        raise RefusedError("invalid_request", error.what, "messages") from error
    except BaseException as error:  # the tokenizer is native code, and raises the bare type
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        text = f"the tokenizer refused: {error}"
        raise RefusedError("invalid_request", text, "messages") from error


def _filled(start: Start) -> Start:
    """Return a rule's prompt with the text that its template makes of the messages."""
    if not start.fill:
        return start
    from edgekit.tokens.rule import RuleRefusedError, RuleTemplate  # noqa: PLC0415  rules alone

    *before, turn = start.messages
    assert isinstance(turn, tuple), "a rule's prompt has one text"
    try:
        fill = msgspec.msgpack.decode(start.fill, type=Fill)
        text = RuleTemplate(str(turn[1])).render(fill)
    except RuleRefusedError as error:
        why = f": {error.why}" if error.why else ""
        raise RefusedError("invalid_request", error.what + why, "prompt") from error
    return msgspec.structs.replace(start, messages=[*before, (turn[0], text)])


@contextmanager
def _refusing_pictures() -> Iterator[None]:
    """Refuse the prompt for what is wrong with a picture."""
    try:
        yield
    except EdgekitError as error:
        text = f"{error.what}: {error.why}; {error.next_step}"
        raise RefusedError("invalid_request", text, "messages") from error


def _check_fields(start: Start, max_beams: int) -> None:
    wanted = start.sampling.num_beams
    if wanted > max_beams:
        raise RefusedError(
            "unsupported_parameter",
            f"num_beams is served up to {max_beams} on this device (max_beams)",
            "num_beams",
        )
    field = beam.refused_field(start.sampling)
    if field:
        how = "with" if wanted > 1 else "without"
        text = f"{field} is not served {how} num_beams"
        raise RefusedError("unsupported_parameter", text, field)


def beams_served(beams: BeamSearch | None, asked: int, context_length: int) -> int:
    """Return how many of the beams asked for the memory allows; 1 refuses beam search.

    The count holds for any split of the context between prompt and answer.
    """
    if beams is None:
        return 1
    room = min(beams.room(context_length, 0), beams.room(0, context_length))
    return max(1, min(asked, room))

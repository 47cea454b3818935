"""Decides if the worker can run a prompt: its fields, its tokens, the memory of a beam search."""

from __future__ import annotations

from edgekit.agent.serve.pipe import Start
from edgekit.agent.serve.worker import beam
from edgekit.agent.serve.worker.decoder import BeamSearch, Limits
from edgekit.agent.serve.worker.text import Tokenizer
from edgekit.errors import EdgekitError


class RefusedError(EdgekitError):
    """The worker cannot run the prompt; `code` is a protocol error code, `param` a field's name."""

    def __init__(self, code: str, what: str, param: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.param = param


def admit(
    start: Start, tokenizer: Tokenizer, limits: Limits, beams: BeamSearch | None, max_beams: int
) -> tuple[list[int], int]:
    """Return the prompt's tokens, and how many tokens its answer may have.

    Args:
        start: the prompt.
        tokenizer: the model's tokenizer.
        limits: the decoder's limits.
        beams: the model's beam search; None if it has none.
        max_beams: the most beams that this device serves.

    Raises:
        RefusedError: the worker cannot run the prompt.
    """
    wanted = start.sampling.num_beams
    _check_fields(start, max_beams)
    try:
        prompt = tokenizer.encode_chat(start.messages)
    except EdgekitError as error:
        raise RefusedError("invalid_request", error.what, "messages") from error
    except Exception as error:  # the tokenizer is native code, and raises the bare type
        text = f"the tokenizer refused: {error}"
        raise RefusedError("invalid_request", text, "messages") from error
    if start.prompt_limit and len(prompt) > start.prompt_limit:
        raise RefusedError(
            "context_length_exceeded",
            f"the prompt has {len(prompt)} tokens; this device takes {start.prompt_limit} "
            "(max_prompt_tokens)",
            "messages",
        )
    if len(prompt) >= limits.max_length:
        raise RefusedError(
            "context_length_exceeded",
            f"the prompt has {len(prompt)} tokens; "
            f"the context of {limits.max_length} leaves no room for an answer",
            "messages",
        )
    foreign = [token for token in start.sampling.logit_bias if token >= limits.vocabulary]
    if foreign:
        raise RefusedError(
            "invalid_request",
            f"logit_bias names token {foreign[0]}; the vocabulary has {limits.vocabulary}",
            "logit_bias",
        )
    limit = min(start.answer_limit, limits.max_length - len(prompt))
    if wanted > 1 and beams is not None:
        room = beams.room(len(prompt), limit)
        if wanted > room:
            raise RefusedError(
                "out_of_memory",
                f"num_beams {wanted}: the free memory has room for {room} beams of "
                f"{len(prompt)} tokens and an answer of {limit}",
                "num_beams",
            )
    return prompt, limit


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

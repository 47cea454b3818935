"""Beam search for one prompt: apart from the slots, alone, without deltas, off by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.agent.serve.pipe import Done, Start
from edgekit.agent.serve.worker.answer import Answer
from edgekit.agent.serve.worker.decoder import BeamSearch, Tokenizer
from edgekit.core.chat import Sampling, Timings, Usage

# What the runtime's search has no word for; by the names of the prompt's body.
_NOT_WITH_BEAMS = (
    *("temperature", "min_p", "presence_penalty", "frequency_penalty", "logit_bias"),
    "repetition_penalty",
)
_NOT_WITHOUT = ("length_penalty",)


def refused_field(sampling: Sampling) -> str:
    """The field that a prompt's way of being answered does not serve; empty if there is none."""
    neutral = Sampling()
    names = _NOT_WITH_BEAMS if sampling.num_beams > 1 else _NOT_WITHOUT
    changed = (n for n in names if getattr(sampling, n) != getattr(neutral, n))
    return next(changed, "")


def run(
    start: Start,
    prompt: Sequence[int],
    limit: int,
    search: BeamSearch,
    tokenizer: Tokenizer,
    stopped: Callable[[], str],
    clock: Callable[[], float],
) -> Done:
    """Search to the end.

    Args:
        start: the prompt.
        prompt: its tokens.
        limit: of the answer, in tokens.
        search: of the model.
        tokenizer: of the same model.
        stopped: why to stop, looked at between steps; empty to go on.
        clock: monotonic seconds.
    """
    began = clock()
    beams = search(prompt, start.sampling.num_beams, limit, start.sampling.length_penalty)
    prefilled = clock()
    reason = stopped()
    while not reason and beams.step():
        reason = stopped()
    ended = clock()
    tokens = [] if reason else beams.best()
    texts: list[str] = []
    answer = Answer(texts.append, start.stops, tokenizer)
    for token in tokens:
        if answer.add(token, 0.0):
            reason = "stop"
            break
    text = answer.finish(0.0)
    # A search that ended by itself stopped at an end-of-turn token, which `best` leaves out.
    count = answer.count + (not reason and len(tokens) < limit)
    return Done(
        start.key,
        text,
        reason or ("stop" if len(tokens) < limit else "length"),
        Usage(len(prompt), count, len(prompt) + count),
        Timings(
            queue_ms=0.0,
            prompt_ms=(prefilled - began) * 1e3,
            first_token_ms=(ended - began) * 1e3,
            predicted_ms=(ended - prefilled) * 1e3,
            predicted_per_second=count / max(ended - prefilled, 1e-9),
        ),
    )

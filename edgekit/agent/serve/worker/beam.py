"""Runs a beam search for one prompt, outside the slots, alone and without deltas.

Beam search is off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.agent.serve.pipe import Done, Start
from edgekit.agent.serve.worker.answer.answer import Answer
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece, TextReader
from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.decoder import BeamSearch
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.chat.sampling import Sampling

# Options that the runtime's search does not have, by their names in the prompt's body.
_NOT_WITH_BEAMS = (
    *("temperature", "min_p", "presence_penalty", "frequency_penalty", "logit_bias"),
    "repetition_penalty",
)
_NOT_WITHOUT = ("length_penalty",)


def refused_field(sampling: Sampling) -> str:
    """Return a field that the prompt's way of decoding does not serve; empty if there is none."""
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
    reader: TextReader | None = None,
) -> Done:
    """Run the search to its end and return the answer.

    Args:
        start: the prompt.
        prompt: the prompt's tokens.
        limit: the most tokens of the answer.
        search: the model's beam search.
        tokenizer: the same model's tokenizer.
        stopped: called between steps; returns the reason to stop, empty to go on.
        clock: monotonic seconds.
        reader: takes the answer's text apart.
    """
    began = clock()
    beams = search(prompt, start.sampling.num_beams, limit, start.sampling.length_penalty)
    prefilled = clock()
    reason = stopped()
    while not reason and beams.step():
        reason = stopped()
    ended = clock()
    tokens = [] if reason else beams.best()
    pieces: list[AnswerPiece] = []
    answer = Answer(pieces.append, start.stops, tokenizer, reader=reader)
    for token in tokens:
        if answer.add(token, 0.0):
            reason = "stop"
            break
    said = answer.finish(0.0)
    # A search that ended by itself stopped at an end-of-turn token, which `best` leaves out.
    count = answer.count + (not reason and len(tokens) < limit)
    return Done(
        start.key,
        said.text,
        reason or ("stop" if len(tokens) < limit or answer.stopped else "length"),
        Usage(len(prompt), count, len(prompt) + count),
        Timings(
            queue_ms=0.0,
            prompt_ms=(prefilled - began) * 1e3,
            first_token_ms=(ended - began) * 1e3,
            predicted_ms=(ended - prefilled) * 1e3,
            predicted_per_second=count / max(ended - prefilled, 1e-9),
        ),
        said.reasoning,
    )

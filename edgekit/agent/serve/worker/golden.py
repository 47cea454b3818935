"""Golden prompts in the worker: recorded where a model is packed, scored where it is on trial.

Both walk the model in the same way: the prompt goes in slice by slice, as a prefill does; then the
answer goes in one token at a time, through the cache. So the walk sees the kernels of both, and the
cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from edgekit.agent.serve.pipe import SLICE_TOKENS
from edgekit.agent.serve.worker.decoder import Decoder, Logits, RuntimeOptions, open_model
from edgekit.agent.serve.worker.tune import cpus
from edgekit.core.golden import (
    MAX_NATS,
    MAX_PROMPT_TOKENS,
    MAX_SCORED,
    MAX_TEXT,
    Golden,
    GoldenPrompt,
    GoldenScore,
    ScoredPosition,
    score_of,
)
from edgekit.errors import EdgekitError
from edgekit.tokens.chat import open_tokenizer
from edgekit.tokens.template import ChatRefusedError

# Digits, prose, several scripts and code.
QUESTIONS = (
    "Count from 1 to 20.",
    "Write the months of the year in order.",
    "Repeat this: Grüße aus München, déjà vu, Москва, 東京.",
    "Write a Python function that adds two numbers.",
)
ANSWER_TOKENS = MAX_SCORED // len(QUESTIONS)
SPEED_STEPS = 16
DECIMALS = 3  # of margins and log-probabilities in the record
PACK_DATE = datetime(2026, 1, 1)  # noqa: DTZ001  what templates print: local time without a zone


class PromptTexts(Protocol):
    """What golden prompts need of a tokenizer."""

    def render(self, turns: Sequence[tuple[str, str]]) -> str:
        """Return the text of a prompt."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ...


def record_folder(model_dir: Path, context: int) -> list[GoldenPrompt]:
    """Load a model folder as a device does, in one slot, and record its golden prompts.

    Args:
        model_dir: the model's folder.
        context: of the bundle, in tokens.

    Raises:
        EdgekitError: the model cannot be loaded, or its logits are no numbers.
    """
    length = min(context, MAX_PROMPT_TOKENS)
    try:
        texts = open_tokenizer(model_dir, lambda: PACK_DATE)
        decoder, _ = open_model(model_dir, length, RuntimeOptions(cpus(), spinning=False), slots=1)
    except EdgekitError:
        raise
    except Exception as error:  # native libraries may raise anything
        raise EdgekitError("the model cannot be loaded", str(error)) from error
    return record(decoder, texts)


def record(decoder: Decoder, texts: PromptTexts) -> list[GoldenPrompt]:
    """Let the model answer the questions greedily.

    Returns:
        The prompts that fit into a slot; none if the context is very short.

    Raises:
        EdgekitError: the model's logits are no numbers.
    """
    limits = decoder.limits
    # LongRoPE's factors do not change within a prompt
    longest = min(limits.max_length, MAX_PROMPT_TOKENS, limits.rope_threshold or MAX_PROMPT_TOKENS)
    prompts = []
    for question in QUESTIONS:
        try:
            text = texts.render([("user", question)])
        except ChatRefusedError:  # some templates want other messages
            continue
        tokens = texts.encode(text)
        room = longest - len(tokens)
        if len(text) <= MAX_TEXT and len(tokens) >= limits.min_slice and room > 0:
            prompts.append(_recorded(decoder, text, tokens, min(ANSWER_TOKENS, room)))
    return prompts


def score(
    decoder: Decoder,
    texts: PromptTexts,
    golden: Golden,
    limit_seconds: float = inf,
    clock: Callable[[], float] = time.monotonic,
) -> GoldenScore:
    """Walk the recorded tokens with this model.

    Args:
        decoder: an empty first slot; it is emptied again.
        texts: the tokenizer.
        golden: the record; every token is in the decoder's vocabulary.
        limit_seconds: after this time no other prompt is begun. The first one always is.
        clock: seconds.

    Returns:
        The score of the first prompts: up to the limit, or up to one that does not fit into a slot.
    """
    until = clock() + limit_seconds
    found: list[ScoredPosition] = []
    steps, seconds, misread = 0, 0.0, 0
    walked: list[GoldenPrompt] = []
    for prompt in golden.prompts:
        late = bool(walked) and clock() >= until
        if late or len(prompt.tokens) > decoder.limits.max_length:
            break
        walked.append(prompt)
        if prompt.text and texts.encode(prompt.text) != prompt.tokens[: prompt.start]:
            misread += 1
        logits = _prefill(decoder, prompt.tokens[: prompt.start])
        began = clock()
        for token in prompt.tokens[prompt.start : -1]:
            found.append(_position(logits, token))
            logits = decoder.step({0: token})[0]
        seconds += clock() - began
        steps += len(prompt.best) - 1
        found.append(_position(logits, prompt.tokens[-1]))
    decoder.truncate(0, 0)
    part = msgspec.structs.replace(golden, prompts=walked)
    return score_of(part, found, steps / seconds if seconds > 0 else 0.0, misread)


def speed(
    decoder: Decoder, limit_seconds: float = inf, clock: Callable[[], float] = time.monotonic
) -> float:
    """Tokens per second of single steps, for a bundle whose golden prompts have none.

    Args:
        decoder: an empty first slot; it is emptied again.
        limit_seconds: after this time no other step is begun. The first one always is.
        clock: seconds.

    Returns:
        At most `SPEED_STEPS` steps over their time; which tokens they are does not matter.
    """
    limits = decoder.limits
    length = max(limits.min_slice, 1)
    token = int(_prefill(decoder, [1] * length).argmax())
    began = clock()
    for step in range(1, SPEED_STEPS + 1):
        token = int(decoder.step({0: token})[0].argmax())
        seconds = clock() - began
        if seconds >= limit_seconds or length + step >= limits.max_length:
            break
    decoder.truncate(0, 0)
    return step / max(seconds, 1e-9)


def _recorded(decoder: Decoder, text: str, tokens: list[int], count: int) -> GoldenPrompt:
    logits = _prefill(decoder, tokens)
    answer: list[int] = []
    positions: list[ScoredPosition] = []
    while True:
        if not np.isfinite(logits).all():
            raise EdgekitError(
                "the model's answers are no numbers",
                f"its logits after {text!r} are not finite",
                "build it again, with the gate",
            )
        token = int(logits.argmax())
        answer.append(token)
        positions.append(_position(logits, token))
        if len(answer) == count:
            break
        logits = decoder.step({0: token})[0]
    decoder.truncate(0, 0)
    return GoldenPrompt(
        tokens=[*tokens, *answer],
        start=len(tokens),
        best=answer,
        margins=[round(position.margin, DECIMALS) for position in positions],
        logprobs=[round(position.logprob, DECIMALS) for position in positions],
        text=text,
    )


def _prefill(decoder: Decoder, tokens: Sequence[int]) -> Logits:
    """Put a prompt into the empty first slot; no slice is shorter than the decoder wants."""
    decoder.truncate(0, 0)
    limits = decoder.limits
    done = 0
    while True:
        left = len(tokens) - done
        size = min(SLICE_TOKENS, left)
        if 0 < left - size < limits.min_slice:
            size = left - limits.min_slice
        logits = decoder.extend(0, tokens[done : done + size])
        done += size
        if done == len(tokens):
            return logits


def _position(logits: Logits, token: int) -> ScoredPosition:
    """Read one position; logits that are no numbers make the recorded token impossible."""
    values = logits.astype(np.float64)
    best = int(values.argmax())
    highest = values[best]
    if not np.isfinite(values).all():
        return ScoredPosition(best, 0.0, -MAX_NATS)
    others = np.delete(values, best)
    margin = min(float(highest - others.max()), MAX_NATS)
    total = highest + np.log(np.exp(values - highest).sum())
    return ScoredPosition(best, margin, max(float(values[token] - total), -MAX_NATS))

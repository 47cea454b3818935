"""The reference writes: sampled texts and greedy continuations in one batch.

Every weight is read once per step, whatever the number of rows; so one batch takes little longer
than the longer of two.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from gate.text import stops
from transformers import GenerationConfig, LogitsProcessor

TEMPERATURE = 0.8


@dataclass
class Continuations:
    """Continuations, each up to and including its stop token."""

    sampled: list[list[int]]
    greedy: list[list[int]]


@dataclass
class Pace:
    """The times at which the steps of a batch ended, and its size."""

    rows: int
    width: int
    at: list[float] = field(default_factory=lambda: [time.perf_counter()])

    @property
    def prefill(self) -> float:
        """Seconds of the prompts."""
        return self.at[1] - self.at[0]

    @property
    def step(self) -> float:
        """Seconds of a usual step after them."""
        steps = sorted(b - a for a, b in zip(self.at[1:], self.at[2:], strict=False))
        return steps[len(steps) // 2]


class _Chooser(LogitsProcessor):
    """Chooses each row's next token: the first rows sample, the others take the likeliest."""

    def __init__(
        self, sampled: int, tokens: int, stop: int | None, seed: int, pace: Pace,
        tell: Callable[[Pace], None],
    ) -> None:  # fmt: skip
        self._sampled, self._tokens, self._stop = sampled, tokens, stop
        self._random = torch.Generator().manual_seed(seed)
        self._pace, self._tell = pace, tell

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._pace.at.append(time.perf_counter())
        self._tell(self._pace)
        chosen = scores.argmax(dim=-1)
        if input_ids.shape[1] - self._pace.width < self._tokens:
            likely = torch.softmax(scores[: self._sampled] / TEMPERATURE, dim=-1)
            drawn = torch.multinomial(likely, 1, generator=self._random)
            chosen[: self._sampled] = drawn.squeeze(1)
        elif self._stop is not None:  # these rows have their tokens
            chosen[: self._sampled] = self._stop
        only = torch.full_like(scores, float("-inf"))
        return only.scatter_(1, chosen[:, None], 0.0)


def write(
    model: Any, sampled: list[list[int]], tokens: int, greedy: list[list[int]],
    greedy_tokens: int, seed: int, tell: Callable[[Pace], None],
) -> Continuations:  # fmt: skip
    """Continue all prompts in one batch.

    Args:
        sampled, tokens: prompts whose continuations are drawn, and the most tokens of each.
        greedy, greedy_tokens: prompts that the likeliest tokens continue, and the most of each.
        tell: called after each step.
    """
    ends, prompts = stops(model), [*sampled, *greedy]
    pad = ends[0] if ends else 0
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        do_sample=False, repetition_penalty=1.0, no_repeat_ngram_size=0,
        max_new_tokens=max(tokens, greedy_tokens), eos_token_id=ends or None, pad_token_id=pad,
    )  # fmt: skip
    pace = Pace(len(prompts), width)
    chooser = _Chooser(len(sampled), tokens, ends[0] if ends else None, seed, pace, tell)
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config,
            logits_processor=[chooser],
        )  # fmt: skip
    rows = [row[width:].tolist() for row in made]
    few = [_ended(row[:tokens], ends) for row in rows[: len(sampled)]]
    return Continuations(few, [_ended(row[:greedy_tokens], ends) for row in rows[len(sampled) :]])


def _ended(row: list[int], ends: list[int]) -> list[int]:
    # the stop token itself stays: the model's decision to end is scored, too
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]

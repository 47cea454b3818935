"""A model folder's baseline, and how another one compares with it, in this process.

The walks, their limits and the comparison are the product's.
"""

from __future__ import annotations

import functools
from pathlib import Path

from edgekit.agent.serve.pipe import Walk, WalkEnded
from edgekit.agent.serve.session.canary import ANSWER_TOKENS, compared_with, sample_of
from edgekit.agent.serve.worker.decoder import RuntimeOptions, open_model
from edgekit.agent.serve.worker.golden import QUESTIONS
from edgekit.agent.serve.worker.walking import run_walk
from edgekit.core.quality import QualityScore, Sample, score_of
from edgekit.tokens.chat import open_tokenizer

CONTEXT = 512


def _walks(model: Path, walks: list[Walk]) -> list[WalkEnded]:
    decoder, _ = open_model(model, CONTEXT, RuntimeOptions(2, spinning=False), 1)
    ends = frozenset(open_tokenizer(model).eos_token_ids)
    return [run_walk(walk, decoder, 0, ends) for walk in walks]


@functools.cache
def questions(model: Path) -> tuple[tuple[int, ...], ...]:
    """The golden questions as this model's tokens."""
    texts = open_tokenizer(model)
    return tuple(tuple(texts.encode(texts.render([("user", question)]))) for question in QUESTIONS)


def baseline(model: Path, prompts: list[list[int]] | None = None) -> list[Sample]:
    """What a model says of its own answers to the golden questions, or to other prompts."""
    tokens = prompts or [list(each) for each in questions(model)]
    walks = [Walk("", each, len(each), [], ANSWER_TOKENS) for each in tokens]
    return [sample_of(walk, ended) for walk, ended in zip(walks, _walks(model, walks), strict=True)]


def compared(samples: list[Sample], model: Path) -> QualityScore:
    """How a model compares with a baseline."""
    walks = [
        Walk("", each.tokens, each.start, [top.tokens for top in each.tops], ANSWER_TOKENS)
        for each in samples
    ]
    score = score_of(samples, [compared_with(ended) for ended in _walks(model, walks)])
    assert score is not None
    return score

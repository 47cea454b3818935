"""Golden prompts: what a bundle's model answered where it was packed, and how a device's compares.

The prompts are teacher-forced: every position is scored after the recorded tokens, not after the
device's own. So one rounding does not change all later positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from math import fsum, isfinite

import msgspec

from edgekit.core.config import MOST_SECONDS
from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError

MAX_SCORED = 64  # tokens of all prompts together
MAX_PROMPT_TOKENS = 512  # of one prompt and its answer; every device's slots hold as many
MAX_TEXT = 8192  # characters of one prompt
MAX_GOLDEN_BYTES = 256 << 10
MAX_NATS = 1000.0  # of a margin or a log-probability; stands for what is no number, too


class GoldenPrompt(msgspec.Struct, frozen=True):
    """Tokens and what the packed model said after each of the last ones.

    Attributes:
        tokens: the prompt and its answer as token ids.
        start: the first scored position; 1 or more.
        best: for each position from `start` on, the token with the highest logit before it.
        margins: the distance of the best logit from the second, in nats.
        logprobs: the log-probability of the recorded token of that position, in nats.
        text: what `tokens` begin with, as text; the tokenizer makes the tokens before `start` of
            it. Empty for tokens that no text is recorded for.
    """

    tokens: list[int]
    start: int
    best: list[int]
    margins: list[float]
    logprobs: list[float]
    text: str = ""


class Golden(msgspec.Struct, frozen=True):
    """What a release has to show in its trial; `golden.json` of a bundle.

    Attributes:
        prompts: at most `MAX_SCORED` scored positions together.
        margin: positions with a smaller margin, in nats, do not count for the agreement.
        agreement: the share of the counted positions whose best token must be the recorded one.
        nll: how much the mean negative log-likelihood may differ, in nats.
        soak_seconds: how long the release must run without a crash after it answers.
        made_from: of the model's record, as `buildinfo.made_from` says it; for the quality canary.
    """

    prompts: list[GoldenPrompt]
    margin: float = 1.0
    agreement: float = 0.95
    nll: float = 0.1
    soak_seconds: float = 30.0
    made_from: str | msgspec.UnsetType = msgspec.UNSET


class GoldenScore(msgspec.Struct, frozen=True):
    """How a device's model compares with the recorded one.

    Attributes:
        positions: how many were scored, those of the first prompts; `counted` of them had a
            sufficient margin.
        agreement: share of the counted positions with the recorded best token.
        nll_change: mean negative log-likelihood here less the recorded one, in nats.
        tokens_per_second: of the scored steps, one token each; 0 if there was none.
        misread: how many prompts the tokenizer here reads as other tokens.
    """

    positions: int
    counted: int
    agreement: float
    nll_change: float
    tokens_per_second: float
    misread: int = 0


class ScoredPosition(msgspec.Struct, frozen=True):
    """What a model says at one position: the recorded token is known, the model's is `best`.

    Attributes:
        best: the token with the highest logit.
        margin: its distance from the second, in nats.
        logprob: the log-probability of the recorded token, in nats.
    """

    best: int
    margin: float
    logprob: float


class TrialReport(msgspec.Struct, frozen=True):
    """What the agent on trial says of itself to its supervisor; `run/trial.json`.

    Attributes:
        loaded: the model is loaded.
        connected: the broker has accepted the agent.
        score: of the golden prompts, and tokens/s; None before they were scored. Without golden
            prompts it is None, or has no positions where only tokens/s were measured.
        rss_bytes: resident memory of agent and worker together.
    """

    loaded: bool = False
    connected: bool = False
    score: GoldenScore | None = None
    rss_bytes: int = 0


def score_of(
    golden: Golden, found: Sequence[ScoredPosition], tokens_per_second: float, misread: int
) -> GoldenScore:
    """Compare what a model says with the record.

    Args:
        golden: the record.
        found: one for each scored position of all prompts, in their order.
        tokens_per_second: of the scored steps.
        misread: how many prompts the tokenizer reads as other tokens.
    """
    best = chain.from_iterable(prompt.best for prompt in golden.prompts)
    margins = chain.from_iterable(prompt.margins for prompt in golden.prompts)
    logprobs = chain.from_iterable(prompt.logprobs for prompt in golden.prompts)
    counted = agreeing = 0
    changes = []
    for here, token, margin, logprob in zip(found, best, margins, logprobs, strict=True):
        changes.append(logprob - here.logprob)
        if margin >= golden.margin:
            counted += 1
            agreeing += here.best == token
    return GoldenScore(
        positions=len(changes),
        counted=counted,
        agreement=agreeing / counted if counted else 1.0,
        nll_change=fsum(changes) / len(changes) if changes else 0.0,
        tokens_per_second=tokens_per_second,
        misread=misread,
    )


def passes(golden: Golden, score: GoldenScore) -> str:
    """Decide whether a device's model is the one that was packed.

    Returns:
        Empty if it is, else the reason with both numbers.
    """
    whole = list(accumulate(len(prompt.best) for prompt in golden.prompts)) or [0]
    if score.positions not in whole:  # a slow device scores the first prompts
        return f"golden prompts: {score.positions} positions were scored, {whole[-1]} are recorded"
    if score.misread:
        return (
            f"golden prompts: the tokenizer reads {score.misread} of {len(golden.prompts)} "
            "prompts as other tokens than where the model was packed"
        )
    if not score.agreement >= golden.agreement:  # also if it is no number
        return (
            f"golden prompts: the best token is the recorded one at {100 * score.agreement:.3g}% "
            f"of {score.counted} certain positions, {100 * golden.agreement:.3g}% are needed"
        )
    if not abs(score.nll_change) <= golden.nll:
        return (
            f"golden prompts: the recorded answers became {abs(score.nll_change):.3f} nats per "
            f"token {'less' if score.nll_change > 0 else 'more'} likely, at most {golden.nll:g} "
            "are allowed"
        )
    return ""


def parse_golden(data: bytes, vocabulary: int) -> Golden:
    """Decode a bundle's `golden.json` and check everything that a trial relies on.

    Args:
        data: the bytes, at most `MAX_GOLDEN_BYTES`.
        vocabulary: every token id is below this number.

    Raises:
        VerificationError: it cannot be read, or a value has no meaning; names it.
    """
    if len(data) > MAX_GOLDEN_BYTES:
        raise _wrong(f"it has {len(data)} bytes, at most {MAX_GOLDEN_BYTES} are read")
    try:
        golden = msgspec.json.decode(data, type=Golden)
    except UNREADABLE as error:
        raise VerificationError("the bundle's golden prompts cannot be read", str(error)) from error
    scored = sum(len(prompt.best) for prompt in golden.prompts)
    if scored > MAX_SCORED:
        raise _wrong(f"{scored} positions are scored, at most {MAX_SCORED} are allowed")
    for name, most in (
        ("margin", MAX_NATS),
        ("agreement", 1.0),
        ("nll", MAX_NATS),
        ("soak_seconds", MOST_SECONDS),
    ):
        value = getattr(golden, name)
        if not 0 <= value <= most:
            raise _wrong(f"{name} is {value:g}; it is 0 to {most:g}")
    for number, prompt in enumerate(golden.prompts, 1):
        problem = _problem(prompt, vocabulary)
        if problem:
            raise _wrong(f"prompt {number}: {problem}")
    return golden


def _wrong(why: str) -> VerificationError:
    return VerificationError(
        "the bundle's golden prompts are not usable", why, "pack the model again"
    )


def _problem(prompt: GoldenPrompt, vocabulary: int) -> str:
    """What is wrong with a prompt; empty if nothing is."""
    count = len(prompt.tokens)
    if not 2 <= count <= MAX_PROMPT_TOKENS:
        return f"it has {count} tokens; 2 to {MAX_PROMPT_TOKENS} are allowed"
    if not 1 <= prompt.start < count:
        return f"start is {prompt.start}, of {count} tokens"
    for name in ("best", "margins", "logprobs"):
        length = len(getattr(prompt, name))
        if length != count - prompt.start:
            return f"{name} has {length} values for {count - prompt.start} scored positions"
    if len(prompt.text) > MAX_TEXT:
        return f"text has {len(prompt.text)} characters, at most {MAX_TEXT} are read"
    for token in (*prompt.tokens, *prompt.best):
        if not 0 <= token < vocabulary:
            return f"token {token} is outside the vocabulary of {vocabulary}"
    for value in prompt.margins:
        if not (isfinite(value) and 0 <= value <= MAX_NATS):
            return f"a margin is {value:g} nats"
    for value in prompt.logprobs:
        if not (isfinite(value) and -MAX_NATS <= value <= 0):
            return f"a log-probability is {value:g} nats"
    return ""

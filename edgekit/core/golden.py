"""Golden prompts: what a bundle's model answered where it was packed, and how a device's compares.

The prompts are teacher-forced: every position is scored after the recorded tokens, not after the
device's own. So one rounding does not change all later positions.
"""

from __future__ import annotations

import msgspec

MAX_SCORED = 64  # tokens of all prompts together


class GoldenPrompt(msgspec.Struct, frozen=True):
    """Tokens and what the packed model said after each of the last ones.

    Attributes:
        tokens: the prompt and its answer as token ids.
        start: the first scored position; 1 or more.
        best: for each position from `start` on, the token with the highest logit before it.
        margins: the distance of the best logit from the second, in nats.
        logprobs: the log-probability of the recorded token of that position, in nats.
    """

    tokens: list[int]
    start: int
    best: list[int]
    margins: list[float]
    logprobs: list[float]


class Golden(msgspec.Struct, frozen=True):
    """What a release has to show in its trial; `golden.json` of a bundle.

    Attributes:
        prompts: at most `MAX_SCORED` scored positions together.
        margin: positions with a smaller margin, in nats, do not count for the agreement.
        agreement: the share of the counted positions whose best token must be the recorded one.
        nll: how much the mean negative log-likelihood may differ, in nats.
        soak_seconds: how long the release must run without a crash after it answers.
    """

    prompts: list[GoldenPrompt]
    margin: float = 1.0
    agreement: float = 0.95
    nll: float = 0.1
    soak_seconds: float = 30.0


class GoldenScore(msgspec.Struct, frozen=True):
    """How a device's model compares with the recorded one.

    Attributes:
        positions: how many were scored; `counted` of them had a sufficient margin.
        agreement: share of the counted positions with the recorded best token.
        nll_change: mean negative log-likelihood here less the recorded one, in nats.
        tokens_per_second: of the scored steps, one token each.
    """

    positions: int
    counted: int
    agreement: float
    nll_change: float
    tokens_per_second: float


class TrialReport(msgspec.Struct, frozen=True):
    """What the agent on trial says of itself to its supervisor; `run/trial.json`.

    Attributes:
        loaded: the model is loaded.
        connected: the broker has accepted the agent.
        score: of the golden prompts; None before they were scored, or without any.
        rss_bytes: resident memory of agent and worker together.
    """

    loaded: bool = False
    connected: bool = False
    score: GoldenScore | None = None
    rss_bytes: int = 0


def passes(golden: Golden, score: GoldenScore) -> str:
    """Decide whether a device's model is the one that was packed.

    Returns:
        Empty if it is, else the reason with both numbers.
    """
    scored = sum(len(prompt.best) for prompt in golden.prompts)
    if score.positions != scored:
        return f"golden prompts: {score.positions} positions were scored, {scored} are recorded"
    if not score.agreement >= golden.agreement:  # also if it is no number
        return (
            f"golden prompts: the best token is the recorded one at {score.agreement:.0%} of "
            f"{score.counted} certain positions, {golden.agreement:.0%} are needed"
        )
    if not abs(score.nll_change) <= golden.nll:
        return (
            f"golden prompts: the recorded answers became {abs(score.nll_change):.3f} nats per "
            f"token {'less' if score.nll_change > 0 else 'more'} likely, at most {golden.nll:g} "
            "are allowed"
        )
    return ""

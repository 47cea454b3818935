"""The quality of a new release on a device: how its answers differ from those of the old one.

The old release's tokens are walked under the new one (teacher-forced). Each position compares the
20 tokens that the old release held most likely. Beside that, both answer each prompt greedily, and
the lengths and loops of these answers are counted. A score holds no text and no token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, fsum, isfinite, log

import msgspec

TOP = 20
"""Tokens of a position whose log-probabilities are kept and compared."""
CERTAIN = 1.0
"""Nats from the best token to the second, from which on a position counts for the agreement."""
MAX_NATS = 100.0  # stands for what is no number, too
LOOP_TOKENS, LOOP_TIMES = 8, 4  # a run of 8 tokens that comes 4 times is a loop
_LEAST = 1e-12  # a probability below it counts as this one


class TopTokens(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of some tokens at one position, in nats; the most likely token first."""

    tokens: list[int]
    logprobs: list[float]


class Sample(msgspec.Struct, frozen=True):
    """Tokens, and what a release says after each of the last ones.

    Attributes:
        tokens: a prompt and an answer as token ids.
        start: where the answer begins; 1 or more.
        tops: the most likely tokens at each position from `start` on.
        length: tokens of the release's own greedy answer, up to a limit.
        loops: whether that answer repeats itself.
        ended: whether it is an ended prompt of a requester, and not one of the bundle's.
    """

    tokens: list[int]
    start: int
    tops: list[TopTokens]
    length: int
    loops: bool
    ended: bool = False


class Lineage(msgspec.Struct, frozen=True):
    """What two releases need in common to be compared.

    Attributes:
        name: of the bundle.
        model_type: the family, as in Hugging Face's config.json.
        tokenizer: sha256 (hex) of tokenizer.json.
        made_from: what the weights were made from, and how (`buildinfo.made_from`); empty: unknown.
            Releases in which it differs are compared, by a wider bound.
    """

    name: str
    model_type: str
    tokenizer: str
    made_from: str = ""


class Baseline(msgspec.Struct, frozen=True):
    """What a release said on this device: what its successor is compared with."""

    lineage: Lineage
    samples: list[Sample]


class Walked(msgspec.Struct, frozen=True):
    """What the new release says of one sample.

    Attributes:
        best: its most likely token at each position.
        logprobs: its log-probabilities of the sample's `tops`, in nats.
        length, loops: of its own greedy answer, as in `Sample`.
    """

    best: list[int]
    logprobs: list[list[float]]
    length: int
    loops: bool


class QualityScore(msgspec.Struct, frozen=True):
    """How a new release compares with the old one on the same device.

    Attributes:
        prompts: how many were compared; `ended` of them are ended prompts of requesters.
        positions: of all prompts; the old release was certain at `certain` of them.
        agreement: share of the certain positions at which both have the same best token.
        kl: mean KL(old ‖ new) over the old one's 20 tokens and the rest, in nats.
        length_ratio: tokens of the new one's greedy answers over those of the old one.
        loops_added: greedy answers that repeat themselves, less those of the old one, as a share of
            the prompts; below 0 where the new one loops less.
    """

    prompts: int
    ended: int
    positions: int
    certain: int
    agreement: float
    kl: float
    length_ratio: float
    loops_added: float


class QualityReport(msgspec.Struct, frozen=True):
    """What a device says of the quality of a release.

    Attributes:
        release, against: digests of the new release and of the old one; `against` may be empty.
        score: None where nothing can be compared.
        why: then the reason; empty otherwise.
        rebuilt: whether both were made from the same source in the same way.
    """

    release: str
    against: str = ""
    score: QualityScore | None = None
    why: str = ""
    rebuilt: bool = False


class QualityBound(msgspec.Struct, frozen=True):
    """Below what a score pauses a rollout; docs/adr/0029 says what the defaults were measured on.

    Attributes:
        agreement: the least agreement.
        kl: the largest mean divergence, in nats.
        length_factor: answers may be longer or shorter by this factor.
        loops_added: the largest share of the prompts that loop and did not.
    """

    agreement: float = 0.8
    kl: float = 0.5
    length_factor: float = 3.0
    loops_added: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1:
            raise ValueError("quality_agreement is 0 to 1")
        if not 0 < self.kl <= MAX_NATS:
            raise ValueError(f"quality_kl is above 0 and at most {MAX_NATS:g}")
        if not 1 <= self.length_factor <= MAX_NATS:
            raise ValueError(f"quality_length is 1 to {MAX_NATS:g}")
        if not 0 <= self.loops_added <= 1:
            raise ValueError("quality_loops is 0 to 1")


REBUILT = QualityBound(agreement=0.97, kl=0.02)
"""For a release that was made from the same source in the same way: it should answer alike."""


def objection_to(report: QualityReport, bound: QualityBound) -> str:
    """In what a report lies below a bound, with both numbers; empty if in nothing.

    A rebuilt release lies below it, too, if it does below `REBUILT`.
    """
    if report.score is None:
        return ""
    if not report.rebuilt:
        return worse(report.score, bound)
    strict = msgspec.structs.replace(
        bound,
        agreement=max(bound.agreement, REBUILT.agreement),
        kl=min(bound.kl, REBUILT.kl),
    )
    found = worse(report.score, strict)
    return f"{found} (both were made from the same source in the same way)" if found else ""


def in_words(report: QualityReport) -> str:
    """A report in one line."""
    score = report.score
    if score is None:
        return report.why
    return (
        f"agreement {100 * score.agreement:.1f}%, KL {score.kl:.3f}, "
        f"length x{score.length_ratio:.2f}, loops {100 * score.loops_added:+.0f}%"
    )


def unlike(old: Lineage, new: Lineage) -> str:
    """Why two releases cannot be compared; empty if they can."""
    if (old.name, old.model_type) != (new.name, new.model_type):
        return (
            f"not comparable: the old release is the model {old.name} ({old.model_type}), "
            f"this one is {new.name} ({new.model_type})"
        )
    if old.tokenizer != new.tokenizer:
        return "not comparable: the two releases have different tokenizers"
    return ""


def loops(answer: Sequence[int]) -> bool:
    """Whether an answer repeats itself: some run of 8 tokens comes 4 times."""
    runs = Counter(tuple(answer[at : at + LOOP_TOKENS]) for at in range(len(answer)))
    return any(count >= LOOP_TIMES for run, count in runs.items() if len(run) == LOOP_TOKENS)


def score_of(samples: Sequence[Sample], walked: Sequence[Walked]) -> QualityScore | None:
    """Compare what the new release says with what the old one said.

    Args:
        samples: of the old release.
        walked: what the new one says of each.

    Returns:
        The score; None where no position was compared.
    """
    divergences: list[float] = []
    certain = agreeing = 0
    for sample, found in zip(samples, walked, strict=True):
        for top, best, logprobs in zip(sample.tops, found.best, found.logprobs, strict=True):
            divergences.append(divergence(top.logprobs, logprobs))
            if len(top.logprobs) < 2 or top.logprobs[0] - top.logprobs[1] >= CERTAIN:
                certain += 1
                agreeing += best == top.tokens[0]
    if not divergences:
        return None
    before = sum(sample.length for sample in samples)
    added = sum(found.loops for found in walked) - sum(sample.loops for sample in samples)
    return QualityScore(
        prompts=len(samples),
        ended=sum(sample.ended for sample in samples),
        positions=len(divergences),
        certain=certain,
        agreement=round(agreeing / certain, 4) if certain else 1.0,
        kl=round(fsum(divergences) / len(divergences), 4),
        length_ratio=round(sum(found.length for found in walked) / max(before, 1), 3),
        loops_added=round(added / len(samples), 3),
    )


def divergence(old: Sequence[float], new: Sequence[float]) -> float:
    """KL(old ‖ new) in nats over the named tokens and one class for all others.

    It is at most the divergence over the whole vocabulary, and never negative.

    Args:
        old, new: log-probabilities of the same tokens, in nats.
    """
    if not all(isfinite(value) for value in new):
        return MAX_NATS
    p = [exp(value) for value in old]
    q = [exp(value) for value in new]
    p.append(max(0.0, 1 - fsum(p)))
    q.append(max(0.0, 1 - fsum(q)))
    total = fsum(
        a * (log(a) - log(max(b, _LEAST))) for a, b in zip(p, q, strict=True) if a > _LEAST
    )
    return min(max(total, 0.0), MAX_NATS)


def worse(score: QualityScore, bound: QualityBound) -> str:
    """In what a score lies below a bound, with both numbers; empty if in nothing."""
    found = []
    if not score.agreement >= bound.agreement:
        found.append(
            f"its best token is the old release's at {100 * score.agreement:.3g}% of "
            f"{score.certain} certain positions, {100 * bound.agreement:.3g}% are needed"
        )
    if not score.kl <= bound.kl:
        found.append(
            f"its KL divergence is {score.kl:.3g} nats, at most {bound.kl:.3g} are allowed"
        )
    if not 1 / bound.length_factor <= score.length_ratio <= bound.length_factor:
        found.append(
            f"its answers are {score.length_ratio:.3g} times as long, "
            f"{1 / bound.length_factor:.3g} to {bound.length_factor:.3g} are allowed"
        )
    if not score.loops_added <= bound.loops_added:
        found.append(
            f"{100 * score.loops_added:.3g}% more of its answers repeat themselves, "
            f"{100 * bound.loops_added:.3g}% are allowed"
        )
    return "; ".join(found)

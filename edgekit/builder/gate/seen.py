"""The figures about what a model makes of pictures. Pure."""

from __future__ import annotations

import statistics

import msgspec

LEAST_SWAP = 1e-4
"""Where the reference itself changes less (mean KL divergence, in nats), nothing is said of it."""


class PictureScore(msgspec.Struct, frozen=True):
    """The figures of one picture.

    Attributes:
        png: a small picture, as the text of a `data:` URL.
        question, answer: the text that the model reads.
        tokens: rows of the picture.
        feature_error: distance of its features from the reference's, divided by their length.
        kl: mean KL(reference ‖ model) over the answer's tokens, in nats.
        kl_text: the same after the reference's own features.
        first_same: both have the same most likely first token.
        swap, reference_swap: mean KL divergence of the answer after this picture from the one after
            another picture, of the model and of the reference; None where it was not swapped.
    """

    png: str
    question: str
    answer: str
    tokens: int
    feature_error: float
    kl: float
    kl_text: float
    first_same: bool
    swap: float | None
    reference_swap: float | None


class PictureReport(msgspec.Struct, frozen=True):
    """What a model makes of all pictures.

    Attributes:
        vision: precision of its vision part.
        scores: one for each picture.
        seconds: wall-clock time, with the reference where it was computed.
    """

    vision: str
    scores: tuple[PictureScore, ...]
    seconds: float

    @property
    def feature_error(self) -> float:
        """Mean over the pictures."""
        return statistics.fmean(score.feature_error for score in self.scores)

    @property
    def kl(self) -> float:
        """Mean over the pictures."""
        return statistics.fmean(score.kl for score in self.scores)

    @property
    def kl_text(self) -> float:
        """Mean over the pictures, after the reference's features."""
        return statistics.fmean(score.kl_text for score in self.scores)

    @property
    def first(self) -> float:
        """Share of the pictures with the reference's first token."""
        return statistics.fmean(score.first_same for score in self.scores)

    @property
    def swap(self) -> float | None:
        """The least change by another picture, divided by the reference's; None: not known."""
        known = [
            score.swap / wanted
            for score in self.scores
            if score.swap is not None and (wanted := score.reference_swap or 0.0) >= LEAST_SWAP
        ]
        return min(known, default=None)

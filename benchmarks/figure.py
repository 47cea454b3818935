"""What a figure is: a named function that returns samples, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.rig import Rig

Measure = Callable[[Rig], Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """One thing that is measured.

    Attributes:
        name: stable; PART.WHAT.
        what: what is measured, for a reader of the table.
        unit: one word.
        against: what it is compared with, or under which conditions it was measured.
        measure: does it; the samples, one per round, in `unit`.
    """

    name: str
    what: str
    unit: str
    against: str
    measure: Measure


@dataclass(frozen=True)
class Result:
    """A measured figure; `samples` in the figure's unit, in the order they were taken."""

    figure: Figure
    samples: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median of the samples."""
        return median(self.samples)


_FIGURES: dict[str, Figure] = {}


def figure(name: str, *, what: str, unit: str, against: str) -> Callable[[Measure], Measure]:
    """Register the function below as the way to measure `name`."""

    def register(measure: Measure) -> Measure:
        assert name not in _FIGURES, f"two figures are named {name}"
        _FIGURES[name] = Figure(name, what, unit, against, measure)
        return measure

    return register


def registered() -> dict[str, Figure]:
    """Every figure registered so far by its name, in the order of the modules' import."""
    return dict(_FIGURES)

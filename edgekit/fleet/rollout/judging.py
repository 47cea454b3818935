"""The first wave's quality: which devices are asked, what they said, and what that means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgekit.core.quality import QualityReport, objection_to
from edgekit.fleet.rollout.waves import Terms


@dataclass
class Judging:
    """What the devices of the first wave say of the release against the one before it.

    Args:
        terms: of the rollout.

    Attributes:
        told: what devices said.
        until: how long the rollout waits for the others, in Unix seconds; 0 before it does.
    """

    terms: Terms
    told: dict[str, QualityReport] = field(default_factory=dict)
    until: float = 0.0
    _asked: list[str] = field(default_factory=list)
    _objected: bool = False  # it has paused the rollout
    _waived: bool = False  # and a resume accepted that

    def begin(self, names: Sequence[str], now: float) -> None:
        """Ask these devices."""
        self._asked, self.until = list(names), now + self.terms.quality_seconds

    def missing(self) -> list[str]:
        """The devices that were asked and have said nothing yet."""
        return [name for name in self._asked if name not in self.told]

    def resume(self, now: float) -> None:
        """Somebody goes on: what was objected to is accepted, and what is missing has time."""
        self._waived |= self._objected
        self.until = now + self.terms.quality_seconds

    def objection(self, now: float) -> str:
        """Why the rollout pauses; empty: it does not."""
        if self._waived:
            return ""
        found = ""
        for name, report in self.told.items():
            trouble = objection_to(report, self.terms.bound)
            if trouble and not found:
                found = f"the canary {name} answers worse than with the release before: {trouble}"
        if not found and now >= self.until and (missing := self.missing()):
            found = (
                f"the quality of the canary {', '.join(missing)} was not known within "
                f"{self.terms.quality_seconds:g} s"
            )
        self._objected = bool(found)
        return found

    @property
    def over(self) -> bool:
        """Whether the rollout need not wait any more."""
        return self._waived or not self.missing()

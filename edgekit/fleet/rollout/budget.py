"""How many devices may fail before a rollout pauses (rule 3 of the machine). Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.fleet.rollout.waves import Terms


@dataclass
class FailureBudget:
    """The failures that a rollout bears.

    Args:
        terms: of the rollout.
    """

    terms: Terms
    _forgiven: int = 0  # failures before the last resume

    def forgive(self, failed: int) -> None:
        """Somebody goes on with so many failed devices: they do not count again."""
        self._forgiven = failed

    def objection(self, failed: int, begun: int) -> str:
        """Why the rollout pauses; empty: it does not.

        Args:
            failed: devices that have failed.
            begun: devices that were begun, those included.
        """
        failed -= self._forgiven
        allowed = max(self.terms.failures, math.floor(self.terms.failure_share * begun))
        return f"{failed} devices failed and {allowed} may" if failed > allowed else ""

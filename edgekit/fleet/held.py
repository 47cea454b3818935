"""The error for a device that another operator holds."""

from __future__ import annotations

import math
from datetime import datetime

from edgekit.core.lease import LeaseAnswer
from edgekit.errors import EdgekitError


class LeaseHeldError(EdgekitError):
    """Another operator holds the device, or took it over.

    Attributes:
        answer: what the device said.
    """

    def __init__(self, device: str, answer: LeaseAnswer, now: float) -> None:
        self.answer = answer
        held = answer.lease
        if answer.taken_over_by:
            super().__init__(
                f"{device}: {answer.taken_over_by} took the device over from this rollout",
                "what the rollout meant to do there is out of date",
                "look at `edgekit state`, then begin a new push, or use --take-over",
            )
        elif held is not None:
            since, until = now - held.age_seconds, now + held.left_seconds
            super().__init__(
                f"{device}: {held} holds the device",
                f"since {_clock(since)}, until {_clock(until)} at most",
                f"wait for it with --lock-wait {math.ceil(held.left_seconds)}, or take the device "
                "over with --take-over: the other one is told",
            )


def _clock(at: float) -> str:
    """Local time of the controller; of another day with the date."""
    shown = datetime.fromtimestamp(at).astimezone()
    today = datetime.now().astimezone().date()
    return f"{shown:%H:%M:%S}" if shown.date() == today else f"{shown:%Y-%m-%d %H:%M}"

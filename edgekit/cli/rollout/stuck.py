"""What a rollback ends with that could not take every device back."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import PartialError
from edgekit.fleet.rollout.telling.told import counted


def raise_for_stuck(number: int, names: Sequence[str]) -> None:
    """Raise PartialError for devices that a rollback could not take back."""
    if names:
        shown = ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")
        raise PartialError(
            f"{counted(len(names), 'device')} could not go back: {shown}",
            f"`edgekit status {number}` says why",
            f"`edgekit state {names[0]}` shows what runs there; `edgekit push DEVICE --bundle "
            "NAME:VERSION` brings what shall run",
        )

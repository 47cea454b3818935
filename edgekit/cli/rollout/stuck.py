"""What a rollback ends with that could not take every device back."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import EdgekitError, PartialError
from edgekit.fleet.pulling.roads import put_back
from edgekit.fleet.rollout.device import GONE, DeviceState
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.telling.told import counted


def raise_for_stuck(number: int, names: Sequence[str], gone: Sequence[str]) -> None:
    """Raise PartialError for devices that a rollback could not take back.

    Args:
        number: of the rollout.
        names: of those devices.
        gone: those of them that fleet.toml did not have any more.
    """
    if names and len(gone) == len(names):
        raise PartialError(
            f"{counted(len(gone), 'device')} could not go back: {_shown(gone)}",
            GONE,
            put_back(gone),
        )
    if names:
        there = next(name for name in names if name not in gone)
        raise PartialError(
            f"{counted(len(names), 'device')} could not go back: {_shown(names)}",
            f"`edgekit status {number}` says why",
            f"`edgekit state {there}` shows what runs there; `edgekit push DEVICE --bundle "
            "NAME:VERSION` brings what shall run"
            + (f"; {put_back(gone)} for {_shown(gone)}" if gone else ""),
        )


def not_told(rollout: Rollout, pulling: list[str], error: EdgekitError) -> PartialError:
    """The error for devices that pull and may yet join a rollout that has gone back."""
    names = [name for name in pulling if rollout.devices[name].state == DeviceState.AWAY]
    return PartialError(
        f"{', '.join(names)} may yet join what has gone back: the broker was not told",
        f"{error.what}: {error.why}" if error.why else error.what,
        "once it is there, `edgekit push DEVICE --bundle NAME:VERSION` says what shall run",
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")

"""How strained the device is, and what it therefore does not take. Pure.

A level is entered at its bound and left only a margin better than that, so that a device at a bound
does not say one thing and the other in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from edgekit.agent.serve.session.events import Readings
from edgekit.core import wire

# A Raspberry Pi 5 is fully throttled at 85; a Jetson or an x86 switches itself off above 100.
WARM_C, HOT_C, COOLER_C = 85, 95, 5
# The model's process is what the kernel kills first, and with it what it computes.
TIGHT_MB, SPENT_MB, FREER_MB = 128, 64, 32
# Room for the journal at its largest, 8 MiB of rows and as much again while it is written.
DISK_MB, ROOMIER_MB = 32, 32
STRAINED_RETRY_MS = 30_000  # nothing of this is over in a moment
UNMEASURED = Readings(None, None)


class Level(IntEnum):
    """FINE takes prompts, STRAINED only those that run at once, SPENT none."""

    FINE = 0
    STRAINED = 1
    SPENT = 2


def level(before: Level, strain: int | None, bounds: tuple[int, int], margin: int) -> Level:
    """The level now.

    Args:
        before: the level until now.
        strain: more is worse; None, when nothing is known, is fine.
        bounds: where STRAINED and SPENT begin.
        margin: how much below its bound a level ends.
    """
    if strain is None:
        return Level.FINE
    reached = sum(strain >= bound for bound in bounds)
    kept = sum(strain > bound - margin for bound in bounds)
    return Level(max(reached, min(before, kept)))


@dataclass(slots=True)
class Condition:
    """What was measured last, and the levels that follow."""

    readings: Readings = UNMEASURED
    heat: Level = Level.FINE
    memory: Level = Level.FINE
    disk: Level = Level.FINE

    def update(self, readings: Readings) -> None:
        """Take a measurement into account."""
        self.readings = readings
        self.heat = level(self.heat, readings.temp_c, (WARM_C, HOT_C), COOLER_C)
        self.memory = level(
            self.memory, _missing(readings.mem_free_mb), (-TIGHT_MB, -SPENT_MB), FREER_MB
        )
        self.disk = level(
            self.disk, _missing(readings.disk_free_mb), (-DISK_MB, -DISK_MB), ROOMIER_MB
        )

    @property
    def reason(self) -> str:
        """The code of what strains the device most, or empty; the disk is another matter."""
        if self.memory > self.heat:
            return "out_of_memory"
        return "thermal" if self.heat else ""

    def refusal(self, *, waits: bool) -> wire.ProtocolError | None:
        """Why a new prompt is not taken, if so.

        Args:
            waits: it could not start at once.
        """
        worst = max(self.heat, self.memory)
        if worst == Level.FINE or (worst == Level.STRAINED and not waits):
            return None
        text = f"the device is at {self.readings.temp_c} degrees Celsius"
        if self.reason == "out_of_memory":
            text = f"{self.readings.mem_free_mb} MB of the device's memory are free"
        if worst == Level.STRAINED:
            text += " and takes only what it can start at once"
        return wire.ProtocolError(self.reason, text, retry_after_ms=STRAINED_RETRY_MS)

    def storage_refusal(self) -> wire.ProtocolError | None:
        """Why a new prompt is not written to the disk, while the journal still can be."""
        if self.disk == Level.FINE:
            return None
        text = f"{self.readings.disk_free_mb} MB of the device's disk are free"
        return wire.ProtocolError("no_storage", text, retry_after_ms=STRAINED_RETRY_MS)


def _missing(free_mb: int | None) -> int | None:
    return None if free_mb is None else -free_mb

"""How strained the device is, and which prompts it therefore refuses. Pure.

Levels have hysteresis: a level begins at its bound and ends only a margin below it. A device at a
bound therefore does not switch back and forth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from edgekit.agent.serve.session.events import Readings
from edgekit.core.protocol import wire

# A Raspberry Pi 5 is fully throttled at 85; a Jetson or an x86 shuts itself off above 100.
WARM_C, HOT_C, COOLER_C = 85, 95, 5
# Out of memory, the kernel kills the worker first, and its prompts lose what it has computed.
TIGHT_MB, SPENT_MB, FREER_MB = 128, 64, 32
# Room for the journal at its largest, 8 MiB of rows and as much again while it is written.
DISK_MB, ROOMIER_MB = 32, 32
STRAINED_RETRY_MS = 30_000  # heat and lack of memory last longer than a prompt
UNMEASURED = Readings(None, None)


class Level(IntEnum):
    """FINE takes every prompt, STRAINED only one that can start at once, SPENT none."""

    FINE = 0
    STRAINED = 1
    SPENT = 2


def level(before: Level, strain: int | None, bounds: tuple[int, int], margin: int) -> Level:
    """Return the level that follows from a new reading.

    Args:
        before: the level until now.
        strain: more is worse; None (not known) gives FINE.
        bounds: where STRAINED and SPENT begin.
        margin: how far below its bound a level ends.
    """
    if strain is None:
        return Level.FINE
    reached = sum(strain >= bound for bound in bounds)
    kept = sum(strain > bound - margin for bound in bounds)
    return Level(max(reached, min(before, kept)))


@dataclass(slots=True)
class Condition:
    """The last readings, and the levels that follow from them."""

    readings: Readings = UNMEASURED
    heat: Level = Level.FINE
    memory: Level = Level.FINE
    disk: Level = Level.FINE

    def update(self, readings: Readings) -> None:
        """Update the levels from new readings."""
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
        """The error code of the worst strain, or empty. The disk has its own refusal."""
        if self.memory > self.heat:
            return "out_of_memory"
        return "thermal" if self.heat else ""

    def refusal(self, *, waits: bool) -> wire.ProtocolError | None:
        """Return the error for a new prompt, or None where the device takes it.

        Args:
            waits: whether the prompt could not start at once.
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
        """Return the error for a new prompt when the disk is nearly full, else None."""
        if self.disk == Level.FINE:
            return None
        text = f"{self.readings.disk_free_mb} MB of the device's disk are free"
        return wire.ProtocolError("no_storage", text, retry_after_ms=STRAINED_RETRY_MS)


def _missing(free_mb: int | None) -> int | None:
    return None if free_mb is None else -free_mb

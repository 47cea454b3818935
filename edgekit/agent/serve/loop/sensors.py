"""Reads the device's temperature, free memory and free disk from the kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgekit import memory
from edgekit.agent.serve.session.events import Readings

THERMAL = Path("/sys/class/thermal")


def read_sensors(
    thermal: Path = THERMAL,
    meminfo: Path = memory.MEMINFO,
    disk: Path | None = None,
    groups: Sequence[Path] | None = None,
) -> Readings:
    """Read the device's sensors.

    Args:
        thermal: folder of the thermal zones.
        meminfo: file with MemTotal and MemAvailable.
        disk: a folder; its disk counts what an unprivileged user may still write.
        groups: folders of the control groups whose limits apply; None: those of this process.

    Returns:
        The readings; None for a value that this kernel does not report.
    """
    degrees = []
    for zone in thermal.glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):  # a sensor may be asleep
            degrees.append(round(int(zone.read_text()) / 1000))  # millidegrees
    groups = memory.memory_groups() if groups is None else groups
    free, total = memory.free_bytes(meminfo, groups), memory.total_bytes(meminfo, groups)
    room = None
    if disk is not None:
        with suppress(OSError):
            system = os.statvfs(disk)
            room = system.f_bavail * system.f_frsize >> 20
    return Readings(max(degrees, default=None), _megabytes(free), room, _megabytes(total))


def _megabytes(count: int | None) -> int | None:
    return None if count is None else count >> 20

"""Reads the device's temperature, free memory and free disk from the kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edgekit.agent.serve.session.events import Readings

THERMAL = Path("/sys/class/thermal")
MEMINFO = Path("/proc/meminfo")


def read_sensors(
    thermal: Path = THERMAL, meminfo: Path = MEMINFO, disk: Path | None = None
) -> Readings:
    """Read the device's sensors.

    Args:
        thermal: folder of the thermal zones.
        meminfo: file with MemTotal and MemAvailable.
        disk: a folder; its disk counts what an unprivileged user may still write.

    Returns:
        The readings; None for a value that this kernel does not report.
    """
    degrees = []
    for zone in thermal.glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):  # a sensor may be asleep
            degrees.append(round(int(zone.read_text()) / 1000))  # millidegrees
    total = free = None
    with suppress(OSError, ValueError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemTotal:"):
                total = int(line.split()[1]) >> 10  # kB
            elif line.startswith("MemAvailable:"):
                free = int(line.split()[1]) >> 10
                break  # both are among the first lines
    room = None
    if disk is not None:
        with suppress(OSError):
            system = os.statvfs(disk)
            room = system.f_bavail * system.f_frsize >> 20
    return Readings(max(degrees, default=None), free, room, total)

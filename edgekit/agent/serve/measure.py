"""How the device is: temperature and free memory, from the kernel's files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgekit.agent.serve.events import Measured

THERMAL = Path("/sys/class/thermal")
MEMINFO = Path("/proc/meminfo")


def measured(thermal: Path = THERMAL, meminfo: Path = MEMINFO) -> Measured:
    """The hottest zone and MemAvailable; None for what this kernel does not tell."""
    degrees = []
    for zone in thermal.glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):  # a sensor that is asleep
            degrees.append(round(int(zone.read_text()) / 1000))  # millidegrees
    free = None
    with suppress(OSError, ValueError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) >> 10  # kB
    return Measured(max(degrees, default=None), free)

"""Where the seconds of a run went: by file of tests, on the clock and on the CPU.

The CPU's are those of the test's process and of the programs it has waited for. What runs in a
container, or goes on by itself, is in the machine's share alone. What a process serves for all
files, the last file of its run has.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

STAT = Path("/proc/stat")
SHOWN = 60


class Spent:
    """Seconds that were spent since the last look, and those of each file."""

    def __init__(self) -> None:
        self._cpu = cpu_seconds()
        self._machine = machine_seconds()
        self._files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def look(self) -> float:
        """CPU seconds since the last look."""
        before, self._cpu = self._cpu, cpu_seconds()
        return self._cpu - before

    def add(self, file: str, seconds: float, cpu: float) -> None:
        """Note what a part of a test took."""
        self._files[file][0] += seconds
        self._files[file][1] += cpu

    def lines(self) -> Iterator[str]:
        """The table: the files that took longest, the sum, and how busy the machine's CPUs were."""
        rows = sorted(self._files.items(), key=lambda row: -row[1][0])
        for file, (seconds, cpu) in rows[:SHOWN]:
            yield f"{seconds:7.1f} s {cpu:7.1f} s CPU  {file}"
        clock, cpu = (sum(both[at] for both in self._files.values()) for at in (0, 1))
        yield f"{clock:7.1f} s {cpu:7.1f} s CPU  all {len(rows)} files"
        busy, all_of_it = (
            now - then for now, then in zip(machine_seconds(), self._machine, strict=True)
        )
        yield f"the machine's {os.cpu_count()} CPUs were busy for {busy / (all_of_it or 1):.0%}"


def cpu_seconds() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def machine_seconds() -> tuple[float, float]:
    """Seconds in which the machine's CPUs did something, and all of them (proc(5), stat)."""
    ticks = [int(word) for word in STAT.read_text("ascii").splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    each = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle) / each, sum(ticks) / each

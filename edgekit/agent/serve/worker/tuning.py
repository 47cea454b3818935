"""Decides which thread settings to try on this device, and which one is the best. Pure.

The runtime's default is half of the cores for every model. On two cores this default halves a large
model's speed, while a thread for every core halves a small model's speed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from edgekit.agent.serve.worker.decoder import RuntimeOptions

PROMPT_TOKENS = 256  # the typical prompt and answer that weigh prefill against decode
ANSWER_TOKENS = 128
SPINNING_TIMES = 0.95  # a setting that waits busily must take at most this share of others' time
EVERY_CPU_TIMES = 0.9  # the same for one that leaves no CPU to the agent, the broker and the rest
MAX_KEPT = 8  # results in the file, one for each release and CPU


class SettingSpeed(msgspec.Struct, frozen=True):
    """One setting's speed, in tokens per second."""

    threads: int
    spinning: bool
    prefill_per_s: float
    decode_per_s: float

    @property
    def options(self) -> RuntimeOptions:
        """The runtime options of this setting."""
        return RuntimeOptions(self.threads, self.spinning)

    @property
    def seconds(self) -> float:
        """The time in seconds for a typical prompt and its answer."""
        return PROMPT_TOKENS / self.prefill_per_s + ANSWER_TOKENS / self.decode_per_s


class Tuning(msgspec.Struct, frozen=True):
    """The speeds measured for one release on one CPU of `cpus` cores, in the order of trial."""

    key: str
    cpus: int
    tried: list[SettingSpeed]

    @property
    def best(self) -> SettingSpeed:
        """The fastest setting on a typical prompt.

        A setting that costs the rest of the device CPU time must be clearly faster.
        """

        def cost(measured: SettingSpeed) -> float:
            times = SPINNING_TIMES if measured.spinning else 1.0
            if measured.threads == self.cpus > 1:
                times *= EVERY_CPU_TIMES
            return measured.seconds / times

        return min(self.tried, key=cost)


def next_setting(tried: Sequence[SettingSpeed], cpus: int) -> RuntimeOptions | None:
    """Return the next setting to measure, the most promising first; None when all were tried.

    The order is all CPUs, one, half of them and all but one, without spinning; then the best of
    these with spinning.
    """
    counts = list(dict.fromkeys(n for n in (cpus, 1, cpus // 2, cpus - 1) if n > 0))
    for count in counts:
        if not any(m.threads == count for m in tried):
            return RuntimeOptions(count, False)
    best = min(tried, key=lambda m: m.seconds)
    several = max(counts, key=lambda n: (n > 1, n == best.threads))
    if several > 1 and not any(m.spinning for m in tried):
        return RuntimeOptions(several, True)
    return None


def keep(kept: Sequence[Tuning], new: Tuning) -> list[Tuning]:
    """Return the results with the new one added as the last."""
    return [*(old for old in kept if old.key != new.key), new][-MAX_KEPT:]


def cpu_limit(affinity: int, cpu_max: str) -> int:
    """Return the usable CPUs: `affinity`, or fewer if a cgroup's quota (`cpu.max`) is lower."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return affinity
    return max(1, min(affinity, -(-int(quota) // int(period))))


def cpu_name(cpuinfo: str, machine: str) -> str:
    """Return the CPU's name from /proc/cpuinfo; on ARM, the machine and the CPU part numbers."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if name:
        return name[1].strip()
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)))
    return " ".join([machine, *parts])

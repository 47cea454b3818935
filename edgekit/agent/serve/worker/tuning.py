"""Which threads suit this device and model: what to try, and what the best is. Pure.

The runtime's default is half of the cores, whatever the model: on two cores it halves a large
model's speed, and a thread for every core halves a small one's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from edgekit.agent.serve.worker.decoder import RuntimeOptions

PROMPT_TOKENS = 256  # of the typical prompt that prefill and decode are weighed by
ANSWER_TOKENS = 128
SPINNING_TIMES = 0.95  # of the time without it: a setting that waits busily must gain so much
EVERY_CPU_TIMES = 0.9  # so must one that leaves no CPU to the agent, the broker and the rest
MAX_KEPT = 8  # results in the file, of releases and CPUs


class SettingSpeed(msgspec.Struct, frozen=True):
    """One setting's speed, in tokens per second."""

    threads: int
    spinning: bool
    prefill_per_s: float
    decode_per_s: float

    @property
    def options(self) -> RuntimeOptions:
        """The setting."""
        return RuntimeOptions(self.threads, self.spinning)

    @property
    def seconds(self) -> float:
        """Of a typical prompt and its answer."""
        return PROMPT_TOKENS / self.prefill_per_s + ANSWER_TOKENS / self.decode_per_s


class Tuning(msgspec.Struct, frozen=True):
    """What was measured for one release on one CPU of so many cores, in the order it was tried."""

    key: str
    cpus: int
    tried: list[SettingSpeed]

    @property
    def best(self) -> SettingSpeed:
        """The fastest on a typical prompt; what costs the rest of the device must be clearly so."""

        def cost(measured: SettingSpeed) -> float:
            times = SPINNING_TIMES if measured.spinning else 1.0
            if measured.threads == self.cpus > 1:
                times *= EVERY_CPU_TIMES
            return measured.seconds / times

        return min(self.tried, key=cost)


def next_setting(tried: Sequence[SettingSpeed], cpus: int) -> RuntimeOptions | None:
    """What to measure next, the most promising first; None when all was tried.

    All CPUs, one, half of them and all but one, without spinning; then the best of these with it.
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
    """The results with a new one, the newest last."""
    return [*(old for old in kept if old.key != new.key), new][-MAX_KEPT:]


def cpu_limit(affinity: int, cpu_max: str) -> int:
    """CPUs that may be used: of `affinity`, no more than a cgroup's quota (`cpu.max`) pays for."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return affinity
    return max(1, min(affinity, -(-int(quota) // int(period))))


def cpu_name(cpuinfo: str, machine: str) -> str:
    """A CPU's name from /proc/cpuinfo; ARM has none there but its parts' numbers."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if name:
        return name[1].strip()
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)))
    return " ".join([machine, *parts])

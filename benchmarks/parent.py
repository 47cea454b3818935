"""`agent.parent_rss_mb` and `agent.idle_cpu_percent`: what the agent's own process takes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.figure import figure
from benchmarks.rig import Rig

IDLE_SECONDS = 10.0  # of one round; the CPU clock ticks every 10 ms
PROMPTS = 20  # answered before it is looked at
SETTLE_SECONDS = 2.0


def parent_pid(rig: Rig) -> int:
    """The agent: the child of the supervisor that the device's pid file names."""
    assert rig.device
    supervisor = rig.root.pid_file.read_text().strip()
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return int(children[0])


def busy(rig: Rig) -> None:
    """Answer some prompts, so that nothing is measured that was never used."""
    body = {"messages": [{"role": "user", "content": "Hello, who are you?"}], "max_tokens": 16}
    for _ in range(PROMPTS):
        list(rig.requester.ask(rig.device, body))


def cpu_seconds(pid: int) -> float:
    """User and system time of one process, with its ended children's left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5)


@figure(
    "agent.parent_rss_mb",
    what="Resident memory of the agent's process, which has MQTT and the journal",
    unit="MB",
    against=f"after {PROMPTS} answered prompts; the model's process is another",
)
def parent_rss_mb(rig: Rig) -> list[float]:
    """Megabytes (10^6 bytes) of VmRSS, shared libraries included."""

    def one_round() -> float:
        busy(rig)
        for line in Path(f"/proc/{parent_pid(rig)}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise AssertionError("the kernel tells no VmRSS")

    return [one_round() for _ in range(rig.rounds)]


@figure(
    "agent.idle_cpu_percent",
    what="CPU of agent and model process together while no prompt comes",
    unit="%",
    against=f"of one CPU, over {IDLE_SECONDS:g} s, connected to Mosquitto",
)
def idle_cpu_percent(rig: Rig) -> list[float]:
    """Percent of one CPU: user and system time of the agent and of its worker."""
    busy(rig)
    agent = parent_pid(rig)
    worker = int(Path(f"/proc/{agent}/task/{agent}/children").read_text().split()[0])

    def one_round() -> float:
        time.sleep(SETTLE_SECONDS)
        before, began = cpu_seconds(agent) + cpu_seconds(worker), time.monotonic()
        time.sleep(IDLE_SECONDS)
        used = cpu_seconds(agent) + cpu_seconds(worker) - before
        return 100 * used / (time.monotonic() - began)

    return [one_round() for _ in range(rig.rounds)]

"""`device.*`: what a device does by itself."""

from __future__ import annotations

import time

from benchmarks.figure import figure
from benchmarks.rig import Rig
from edgekit.agent.release.supervisor.choose import supervisor_of
from edgekit.errors import EdgekitError

BOOT_SECONDS = 120.0
LOOK_SECONDS = 0.005


def boot(rig: Rig) -> float:
    """Stop the device's agent and start it again; the seconds until it answers prompts."""
    assert rig.device
    supervisor = supervisor_of(rig.root)
    supervisor.stop()
    rig.root.ready_file.unlink(missing_ok=True)
    began = time.perf_counter()
    supervisor.start()
    while not rig.root.ready_file.exists():
        if time.perf_counter() - began > BOOT_SECONDS:
            raise EdgekitError(f"the agent was not ready within {BOOT_SECONDS:g} s")
        time.sleep(LOOK_SECONDS)
    return time.perf_counter() - began


@figure(
    "device.boot_seconds",
    what="From the start of the supervisor to the agent being ready",
    unit="s",
    against="a local: device whose threads are measured; files in the page cache",
)
def boot_seconds(rig: Rig) -> list[float]:
    """Seconds of wall time: Python, connection to the broker, model loaded."""
    return [boot(rig) for _ in range(rig.rounds)]

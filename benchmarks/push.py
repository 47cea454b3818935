"""`push.*`: what it takes to bring a bundle to a device."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from benchmarks.figure import figure
from benchmarks.rig import Rig

AGAIN = "a local: device that has the bundle and answers"


@dataclass(frozen=True)
class Again:
    """A push of what the device has: bytes of blobs sent, wall time of the whole command."""

    bytes_sent: int
    seconds: float


def push_again(rig: Rig) -> Again:
    """Type `edgekit push` once more."""
    device = rig.device
    began = time.perf_counter()
    answer = json.loads(rig.edgekit("push", device, "--json"))
    seconds = time.perf_counter() - began
    return Again(answer["pushed"][0]["bytes_sent"], seconds)


@figure(
    "push.again_bytes",
    what="Bytes of blobs that a second push of the same bundle sends",
    unit="B",
    against=AGAIN,
)
def again_bytes(rig: Rig) -> list[float]:
    """Bytes of blobs, as `edgekit push --json` counts them; the manifest is not one."""
    return [push_again(rig).bytes_sent for _ in range(rig.rounds)]


@figure(
    "push.again_seconds",
    what="A second push of the same bundle, the whole command",
    unit="s",
    against=AGAIN,
)
def again_seconds(rig: Rig) -> list[float]:
    """Seconds of wall time of the command as typed, Python's own start included."""
    return [push_again(rig).seconds for _ in range(rig.rounds)]

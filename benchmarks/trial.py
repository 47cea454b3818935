"""`device.trial_seconds`: for how long nobody answers while a device tries a release."""

from __future__ import annotations

import json

from benchmarks.figure import figure
from benchmarks.rig import DEVICE, Rig


@figure(
    "device.trial_seconds",
    what="A trial on a device: from the end of the old agent until the new one answers",
    unit="s",
    against="a local: device, SmolLM2 with its golden prompts, the same release with another limit",
)
def trial_seconds(rig: Rig) -> list[float]:
    """Seconds, as the device's supervisor measures them and `edgekit push --json` says them."""
    assert rig.device
    samples = []
    for number in range(rig.rounds):
        rig.reconfigure(f"queue_limit = {20 + number}\n")
        samples.append(float(_state(rig)["trial"]["silent_seconds"]))
    return samples


def _state(rig: Rig) -> dict[str, dict[str, float]]:
    state: dict[str, dict[str, float]] = json.loads(rig.edgekit("state", DEVICE, "--json"))
    return state

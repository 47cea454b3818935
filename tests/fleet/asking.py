"""Asks the devices of a fleet over MQTT, and looks at what they run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from edgekit.client import Final, Requester
from tests.fleet.devices import Devices
from tests.fleet.project import FleetProject
from tests.harness.units import ROOT

QUESTION = "What is the capital of France?"
AT_ONCE = 4


def answering(made: FleetProject, names: list[str], word: str = "Paris") -> list[str]:
    """The devices that answer a question with this word in it."""

    def right(name: str) -> bool:
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12}
        with Requester(made.broker, f"asker-{name}") as requester:
            last = list(requester.ask(name, body))[-1]
        return isinstance(last, Final) and word in last.text

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [name for name, good in zip(names, pool.map(right, names), strict=True) if good]


def currents(fleet: Devices) -> dict[str, str]:
    """What `current` names on each device, read without its agent; empty: nothing."""
    line = f"readlink {ROOT}/current || true"
    return {
        name: device.exec("sh", "-c", line).strip().rpartition("/")[2]
        for name, device in fleet.all.items()
    }

"""Which class of hardware each device is: a rollout has one canary for each class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from edgekit.errors import EdgekitError
from edgekit.fleet.drive import open_device
from edgekit.fleet.inventory import Fleet

UNKNOWN = ""
"""Of a device that could not be asked."""


def survey_kinds(fleet: Fleet, names: list[str], parallel: int) -> dict[str, str]:
    """Ask devices, `parallel` at one time, for their class of hardware."""

    def kind(name: str) -> str:
        try:
            with closing(open_device(fleet, name)) as driver:
                return driver.facts.platform
        except EdgekitError:
            return UNKNOWN  # the rollout says why, when its turn comes

    with ThreadPoolExecutor(parallel, "survey") as pool:
        return dict(zip(names, pool.map(kind, names), strict=True))

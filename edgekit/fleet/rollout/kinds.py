"""Which class of hardware each device is: a rollout has one canary for each class."""

from __future__ import annotations

from edgekit.errors import EdgekitError
from edgekit.fleet.hardware import hardware_class
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.rollout.waves import UNKNOWN
from edgekit.fleet.survey import survey


def survey_kinds(fleet: Fleet, names: list[str], parallel: int) -> dict[str, str]:
    """Ask devices, `parallel` at one time, for their class of hardware.

    The rollout says why one cannot be asked, when its turn comes.
    """
    found = survey(fleet, names, lambda driver: hardware_class(driver.facts), parallel=parallel)
    return {
        name: UNKNOWN if isinstance(kind, EdgekitError) else kind for name, kind in found.items()
    }

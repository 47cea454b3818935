"""Which class of hardware each device is: a rollout has one canary for each class."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.errors import EdgekitError
from edgekit.fleet.connections import Connections
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.hardware import hardware_class
from edgekit.fleet.places import SharedRootError
from edgekit.fleet.rollout.waves import UNKNOWN
from edgekit.fleet.survey import survey


def survey_kinds(
    connections: Connections,
    names: list[str],
    parallel: int,
    runs_it: Callable[[str, DeviceFacts], bool] = lambda name, facts: False,
) -> tuple[dict[str, str], set[str]]:
    """Ask devices, `parallel` at one time, for their class of hardware.

    The rollout says why one cannot be asked, when its turn comes. Connections are kept for it, if
    no more than `parallel` are open then.

    Args:
        connections: of the push.
        names: of the devices.
        parallel: connections at one time.
        runs_it: whether a device has what the rollout brings.

    Returns:
        The class of each device, and which devices would not change.

    Raises:
        SharedRootError: two devices are one.
    """
    found = survey(
        connections.fleet,
        names,
        lambda driver: (hardware_class(driver.facts), runs_it(driver.name, driver.facts)),
        parallel=parallel,
        keep=connections if len(names) <= parallel else None,
    )
    kinds, unchanged = {}, set()
    for name, told in found.items():
        if isinstance(told, SharedRootError):
            connections.close()
            raise told
        if isinstance(told, EdgekitError):
            connections.leave(name)
            kinds[name] = UNKNOWN
            continue
        kinds[name], same = told
        if same:
            unchanged.add(name)
    return kinds, unchanged

"""Which devices of a fleet are one: two addresses may lead to one ROOT of one machine.

Two `Host` entries, a name and an IP address, or a link look like two devices. A push would count
the device twice, and give it one's name and then the other's.

An address may also lead to another device than it did: a machine was made anew, or was given the
address of one that is gone. A push gives a ROOT its name, so it may find another there, as on a
cloned image. What else changes a device asks `refuse_named`.
"""

from __future__ import annotations

import threading

from edgekit.errors import UsageError
from edgekit.fleet.facts import DeviceFacts, configured_name


class SharedRootError(UsageError):
    """Two devices of the fleet are one."""


class Places:
    """The ROOTs of the devices that were connected to; threads share it.

    A folder is known by its number in its file system, on a machine as it was booted: a cloned
    image has another boot, and a container another file system. A ROOT that is not made yet is
    known by the folder that it will be made in, which is also one above it later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roots: dict[str, str] = {}
        self._folders: dict[str, set[str]] = {}

    def other(self, name: str, facts: DeviceFacts) -> str:
        """Note where a device's ROOT is; another device that has it, or empty."""
        if not facts.places:  # its own probe is of before this fact
            return ""
        own = facts.places[0]
        with self._lock:
            same = {self._roots[place] for place in facts.places if place in self._roots}
            same |= self._folders.get(own, set())
            self._roots.setdefault(own, name)
            for place in facts.places:
                self._folders.setdefault(place, set()).add(name)
        return min(same - {name}, default="")

    def refuse_other(self, name: str, facts: DeviceFacts) -> None:
        """Note where a device's ROOT is; raises SharedRootError where another device has it."""
        if other := self.other(name, facts):
            raise shared(other, name, facts.root)


def shared(one: str, other: str, root: str) -> SharedRootError:
    """The error of two devices that are one."""
    return SharedRootError(
        f"{one} and {other} are one device: both addresses lead to {root} of one machine",
        "it would be counted twice, and take one's name and then the other's",
        f"correct one of the addresses; or choose one of them, such as with '!{other}'",
    )


def refuse_named(name: str, facts: DeviceFacts) -> None:
    """Refuse to change a device that has the name of another one.

    Args:
        name: of the device that is meant.
        facts: of the one that its address leads to.

    Raises:
        UsageError: it has another name.
    """
    other = configured_name(facts)
    if other not in ("", name):
        raise UsageError(
            f"the address of {name} leads to {other}; nothing was changed there",
            f"{facts.root} has the settings of {other}",
            f"correct the address of {name} in fleet.toml; if {other} has become {name}, "
            f"`edgekit push {name}` gives it that name",
        )

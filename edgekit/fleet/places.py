"""Which devices of a fleet are one: two addresses may lead to one ROOT of one machine.

Two `Host` entries, a name and an IP address, or a link look like two devices. A push would count
the device twice, and give it one's name and then the other's.
"""

from __future__ import annotations

import threading

from edgekit.errors import UsageError
from edgekit.fleet.facts import DeviceFacts


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

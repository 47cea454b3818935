"""The rows of the devices that are asked for, at any moment."""

from __future__ import annotations

import time
from contextlib import suppress

from edgekit.cli.talk.top.rows import TopRow, chosen, in_order, row
from edgekit.cli.talk.top.table import TopView
from edgekit.cli.talk.watching import DeviceWatch
from edgekit.errors import UsageError
from edgekit.fleet.inventory import Fleet


class FleetLook:
    """What a broker and fleet.toml say of the devices that words choose.

    Args:
        watch: hears the devices.
        fleet: of fleet.toml; None where there is none.
        words: that choose devices; none choose all.
    """

    def __init__(self, watch: DeviceWatch, fleet: Fleet | None, words: list[str]) -> None:
        self.watch = watch
        self._devices = fleet.devices if fleet else {}
        self._groups = fleet.groups if fleet else {}
        self._words = words
        self._began = time.time()
        self._names: list[str] = []
        self._of: frozenset[str] | None = None  # the known devices that `_names` was made of

    def names(self) -> list[str]:
        """The devices that are asked for; raises UsageError where a word names none."""
        known = self.watch.known
        if frozenset(known) != self._of:
            self._names = chosen(self._words, self._devices, self._groups, known)
            self._of = frozenset(known)
        return self._names

    def rows(self, now: float, view: TopView) -> list[TopRow]:
        """A row for each, in the order of the view; `now` is in Unix seconds."""
        with suppress(UsageError):  # all that a word meant were forgotten: they are shown as unseen
            self.names()
        seen = self.watch.seen
        now = self.watch.disconnected_since or now  # without the broker nobody is heard: as of then
        rows = [row(name, seen.get(name), now, self._began) for name in self._names]
        return in_order(rows, view.sort, reverse=view.reverse)


def unconnected(since: float, broker: str) -> str:
    """That there is no connection to a broker since then, in Unix seconds; empty for 0."""
    if not since:
        return ""
    at = time.strftime("%H:%M:%S", time.localtime(since))
    return f"no connection to {broker} since {at}"

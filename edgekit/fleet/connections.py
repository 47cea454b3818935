"""The connections of one push: a device that was just looked at is not connected to twice."""

from __future__ import annotations

import threading
from contextlib import suppress

from edgekit.errors import EdgekitError
from edgekit.fleet import drive
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.facts import configured_name
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.places import Places, shared
from edgekit.fleet.transfer.cap import Cap

KEEP_SECONDS = 30.0  # what was found out on a device may be old after that, and its session is free


class Connections:
    """Opens devices of a fleet, within its bandwidth; threads share it.

    Args:
        fleet: that has the devices.
        keep_seconds: from the first connection that is kept until all that are left are closed.
    """

    def __init__(self, fleet: Fleet, keep_seconds: float = KEEP_SECONDS) -> None:
        self.fleet = fleet
        self._keep_seconds = keep_seconds
        self._cap = Cap(fleet.transfer.mbit_per_second)
        self._lock = threading.Lock()
        self._kept: dict[str, DeviceDriver] = {}
        self._places = Places()
        self._left: set[str] = set()  # devices whose connection nobody wants
        self._timer: threading.Timer | None = None

    def cap(self, name: str) -> Cap:
        """How fast bytes may leave for a device."""
        return cap_of(self.fleet, name, self._cap)

    def open(self, name: str) -> DeviceDriver:
        """The connection that was kept, or a new one.

        Raises:
            SharedRootError: the ROOT is that of another device that was opened.
            EdgekitError: what `drive.open_device` raises.
        """
        with self._lock:
            kept = self._kept.pop(name, None)
            self._left.add(name)
        driver = kept or drive.open_device(self.fleet, name, self.cap(name))
        try:
            self._places.refuse_other(name, driver.facts)
            self._refuse_named(driver)
        except EdgekitError:
            driver.close()
            raise
        return driver

    def _refuse_named(self, driver: DeviceDriver) -> None:
        """Refuse a ROOT that has the name of another device of the fleet, if it is that one's.

        It may be of a cloned image: so that one is asked, too. One that cannot be asked now was
        not there before either, as far as anyone knows.

        Raises:
            SharedRootError: it is that device's.
        """
        other = configured_name(driver.facts)
        device = self.fleet.devices.get(other)
        if device is None or device.pulls or other == driver.name or not driver.facts.places:
            return
        try:
            twin = drive.open_device(self.fleet, other, self.cap(other))
        except EdgekitError:
            return
        _close([twin])
        if twin.facts.places[:1] == driver.facts.places[:1]:
            raise shared(other, driver.name, driver.facts.root)

    def keep(self, driver: DeviceDriver) -> None:
        """Keep a connection for the `open` that comes."""
        with self._lock:
            wanted = driver.name not in self._left
            if wanted:
                self._kept[driver.name] = driver
            if wanted and self._timer is None:
                self._timer = threading.Timer(self._keep_seconds, self.close)
                self._timer.daemon = True
                self._timer.start()
        if not wanted:
            driver.close()

    def leave(self, name: str) -> None:
        """Keep nothing of a device: its look failed."""
        with self._lock:
            self._left.add(name)
            driver = self._kept.pop(name, None)
        _close([driver] if driver else [])

    def close(self) -> None:
        """Close what is kept; `open` connects anew."""
        with self._lock:
            kept = list(self._kept.values())
            self._left.update(self._kept)
            self._kept.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        _close(kept)


def cap_of(fleet: Fleet, name: str, all_devices: Cap) -> Cap:
    """How fast bytes may leave for a device, within the cap of all devices together."""
    own = fleet.devices[name].transfer_mbit_per_second or fleet.transfer.device_mbit_per_second
    return Cap(own, all_devices)


def _close(drivers: list[DeviceDriver]) -> None:
    """Close connections in a thread of their own: to close may hang."""

    def close() -> None:
        for driver in drivers:
            with suppress(Exception):
                driver.close()

    if drivers:
        threading.Thread(target=close, daemon=True).start()

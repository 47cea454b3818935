"""`fleet.toml`: the devices with their addresses and settings. Unknown keys are errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.core.config import BrokerConfig, DeviceSettings, check_name
from edgekit.errors import UsageError
from edgekit.fleet.ssh.destination import parse_destination

BrokerValues = dict[str, Any]
"""The keys of `BrokerConfig` whose values for devices differ from those in edgekit.toml.

In a text `{device}` stands for the device's name: each device has its own identity.
"""

# `load` checks each value by itself; `Fleet.broker_of` checks that they fit together.
_SomeOfBroker = msgspec.defstruct(
    "_SomeOfBroker",
    [(field.name, field.type, None) for field in msgspec.structs.fields(BrokerConfig)],
    forbid_unknown_fields=True,
)


class Device(DeviceSettings, frozen=True, forbid_unknown_fields=True):
    """One device, with its settings.

    `address` is `local:FOLDER` (a folder that plays a device, relative to `fleet.toml`) or
    `ssh:HOST`, where HOST is `[user@]host[:port]`, `[user@][IPv6]:port` or a Host of
    `~/.ssh/config`; `ssh://` URIs work, too.
    """

    address: str
    root: str = ""  # on the device; empty: ~/.local/share/edgekit, for local: the folder itself
    python: str = "python3"
    tags: list[str] = msgspec.field(default_factory=list)
    # for this device alone; it wins over the file's [broker]
    broker: BrokerValues = msgspec.field(default_factory=dict)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    devices: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    broker: BrokerValues = {}


class Fleet(msgspec.Struct, frozen=True):
    """All devices of a project, by name."""

    devices: dict[str, Device]
    groups: dict[str, list[str]]
    folder: Path
    broker: BrokerValues = {}

    def broker_of(self, name: str, base: BrokerConfig) -> BrokerConfig:
        """The broker's values for one device: the device's own, then the file's, then `base`.

        Raises:
            UsageError: the values do not fit together, like a certificate without a key.
        """
        told = msgspec.structs.asdict(base)
        for values in (self.broker, self.devices[name].broker):
            for key, value in values.items():
                text = isinstance(value, str)
                told[key] = value.replace("{device}", name) if text else value
        try:
            return BrokerConfig(**told)
        except ValueError as error:
            raise UsageError(
                f"the [broker] of {name} is not valid",
                str(error),
                "correct it in fleet.toml or edgekit.toml",
            ) from error

    def select(self, names: list[str]) -> list[str]:
        """List the devices that names of devices and groups stand for; no names mean all.

        Raises:
            UsageError: a name is neither a device nor a group.
        """
        chosen: dict[str, None] = {}
        for name in names or list(self.devices):
            if name in self.groups:
                chosen.update(dict.fromkeys(self.groups[name]))
            elif name in self.devices:
                chosen[name] = None
            else:
                known = ", ".join([*self.devices, *self.groups]) or "nothing"
                raise UsageError(
                    f"there is no device or group {name!r}",
                    f"fleet.toml has {known}",
                    "add it to fleet.toml",
                )
        return list(chosen)


def load(path: Path) -> Fleet:
    """Read `fleet.toml`.

    Raises:
        UsageError: the file is missing or no TOML, or it has an unknown key, a wrong value, a bad
            name or a bad address.
    """
    try:
        file = msgspec.toml.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", next_step="`edgekit init` writes one") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid", str(error)) from error
    _check(file.broker, _SomeOfBroker, f"{path}: [broker]")
    devices: dict[str, Device] = {}
    for name, table in file.devices.items():
        check_name("device", name)
        device = devices[name] = _check(table, Device, f"{path}: the device {name}")
        _check(device.broker, _SomeOfBroker, f"{path}: the broker of {name}")
        kind, _, rest = device.address.partition(":")
        if kind not in ("local", "ssh") or not rest:
            raise UsageError(
                f"{path}: the address of {name} is {device.address!r}",
                "an address is local:FOLDER or ssh:[user@]host[:port]",
            )
        if kind == "ssh":
            _check_destination(rest, f"{path}: the address of {name} is {device.address!r}")
    for group, members in file.groups.items():
        check_name("group", group)
        for name in members:
            if name not in devices:
                raise UsageError(f"{path}: group {group} names {name!r}, which is no device")
    return Fleet(devices, file.groups, path.resolve().parent, file.broker)


def _check_destination(text: str, where: str) -> None:
    """Refuse an SSH address that cannot be read, before anything is sent anywhere."""
    try:
        parse_destination(text)
    except UsageError as error:
        raise UsageError(where, error.why, error.next_step) from None


_T = TypeVar("_T")


def _check(table: dict[str, Any], kind: type[_T], where: str) -> _T:
    """Convert a table; raises UsageError that names the table and the unknown or wrong key."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where} is not valid", str(error)) from error


def local_folder(fleet: Fleet, device: Device) -> Path:
    """The folder of a `local:` device."""
    return Path(os.path.normpath(fleet.folder / device.address.removeprefix("local:")))

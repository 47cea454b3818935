"""`fleet.toml`: the devices with their addresses and settings. Unknown keys are errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.config import BrokerConfig, DeviceSettings, check_name
from edgekit.core.tomlfile import NEXT, convert, read_table
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.python:
            raise ValueError("python is empty: leave it out for python3")
        for name in ("address", "root", "python"):
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in getattr(self, name)):
                raise ValueError(f"{name} has a control character")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    devices: dict[str, Any] = {}  # `load` names the device whose table is wrong
    groups: dict[str, Any] = {}
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
                f"{self.folder / 'fleet.toml'}: the [broker] of {name} is not valid",
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
        table, text = read_table(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", next_step="`edgekit init` writes one") from None
    file = convert(table, _File, str(path), text)
    convert(file.broker, _SomeOfBroker, f"{path}: [broker]", text, "broker")
    devices: dict[str, Device] = {}
    for name, values in file.devices.items():
        _check_name("device", name, path)
        at, where = f"devices.{name}", f"{path}: the device {name}"
        device = devices[name] = convert(values, Device, where, text, at)
        where = f"{path}: the broker of {name}"
        convert(device.broker, _SomeOfBroker, where, text, f"{at}.broker")
        kind, _, rest = device.address.partition(":")
        if kind not in ("local", "ssh") or not rest:
            raise UsageError(
                f"{path}: the address of {name} is {device.address!r}",
                "an address is local:FOLDER or ssh:[user@]host[:port]",
            )
        if kind == "ssh":
            _check_destination(rest, f"{path}: the address of {name} is {device.address!r}")
    groups: dict[str, list[str]] = {}
    for group, members in file.groups.items():
        _check_name("group", group, path)
        where = f"{path}: the group {group}"
        groups[group] = convert(members, list[str], where, text, f"groups.{group}")
        for name in groups[group]:
            if name not in devices:
                raise UsageError(f"{path}: group {group} names {name!r}, which is no device")
    return Fleet(devices, groups, path.resolve().parent, file.broker)


def _check_destination(text: str, where: str) -> None:
    """Refuse an SSH address that cannot be read, before anything is sent anywhere."""
    try:
        parse_destination(text)
    except UsageError as error:
        raise UsageError(where, error.why, error.next_step) from None


def _check_name(kind: str, name: str, path: Path) -> None:
    try:
        check_name(kind, name)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.why, NEXT) from None


def local_folder(fleet: Fleet, device: Device) -> Path:
    """The folder of a `local:` device."""
    return Path(os.path.normpath(fleet.folder / device.address.removeprefix("local:")))

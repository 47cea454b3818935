"""`fleet.toml`: the devices with their addresses and settings. Unknown keys are errors.

Devices can also come from inventories of Ansible that the file names. One fleet has both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.config import BrokerConfig, DeviceSettings, PullConfig, check_name
from edgekit.core.rules.rule import Rule
from edgekit.core.tomlfile import NEXT, convert, read_table
from edgekit.errors import UsageError
from edgekit.fleet.inventories import ansible
from edgekit.fleet.inventories.groups import Group, Values, devices_of, groups_with, values_of
from edgekit.fleet.inventories.read import add_files, read_hosts
from edgekit.fleet.inventories.rules import check_rules
from edgekit.fleet.inventories.selection import check_word, select
from edgekit.fleet.rollout.settings import RolloutSettings, check_window
from edgekit.fleet.ssh.destination import parse_destination
from edgekit.fleet.transfer.settings import TransferSettings, check_rate

BrokerValues = dict[str, Any]
"""The keys of `BrokerConfig` whose values for devices differ from those in edgekit.toml.

In a text `{device}` stands for the device's name: each device has its own identity.
"""

PullValues = dict[str, Any]
"""The keys of `PullConfig`; in a text `{device}` stands for the device's name."""

_SomeOfPull = msgspec.defstruct(
    "_SomeOfPull",
    [(field.name, field.type, None) for field in msgspec.structs.fields(PullConfig)],
    forbid_unknown_fields=True,
)

# `load` checks each value by itself; `Fleet.broker_of` checks that they fit together.
_SomeOfBroker = msgspec.defstruct(
    "_SomeOfBroker",
    [(field.name, field.type, None) for field in msgspec.structs.fields(BrokerConfig)],
    forbid_unknown_fields=True,
)


PULLS = "pull:"
SSH_PORT = 22
DEFAULT_ROOT = "~/.local/share/edgekit"


class Device(DeviceSettings, frozen=True, forbid_unknown_fields=True):
    """One device, with its settings.

    `address` is `local:FOLDER` (a folder that plays a device, relative to `fleet.toml`) or
    `ssh:HOST`, where HOST is `[user@]host[:port]`, `[user@][IPv6]:port` or a Host of
    `~/.ssh/config`; `ssh://` URIs work, too. Nobody connects to a device at `pull:`: it is told by
    the broker what to run, and pulls it.
    """

    address: str
    root: str = ""  # on the device; empty: ~/.local/share/edgekit, for local: the folder itself
    python: str = "python3"
    tags: list[str] = msgspec.field(default_factory=list)
    site: str = ""  # where it stands
    window: str = ""  # when it may switch; empty: as [rollout] says
    transfer_mbit_per_second: float = 0.0  # to it; 0: as [transfer] says
    # for this device alone; it wins over the file's [broker]
    broker: BrokerValues = msgspec.field(default_factory=dict)
    pull: PullValues = msgspec.field(default_factory=dict)  # likewise, over the file's [pull]

    @property
    def pulls(self) -> bool:
        """Whether a rollout reaches it by the broker alone."""
        return self.address == PULLS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.python:
            raise ValueError("python is empty: leave it out for python3")
        for name in ("address", "root", "python"):
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in getattr(self, name)):
                raise ValueError(f"{name} has a control character")
        for tag in self.tags:
            check_word("tag", tag)
        if self.site:
            check_word("site", self.site)
        check_window(self.window)
        check_rate("transfer_mbit_per_second", self.transfer_mbit_per_second)


_SomeOfDevice = msgspec.defstruct(
    "_SomeOfDevice",
    [
        (field.name, field.type, None)
        for field in msgspec.structs.fields(Device)
        if field.name != "address"
    ]
    + [("members", list[str], [])],
    forbid_unknown_fields=True,
)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    devices: dict[str, Any] = {}  # `load` names the device whose table is wrong
    groups: dict[str, Any] = {}
    broker: BrokerValues = {}
    pull: PullValues = {}
    rollout: dict[str, Any] = {}
    transfer: dict[str, Any] = {}
    rules: dict[str, Any] = {}  # of every device; a rule of this name of a device or group wins
    inventories: list[str] = []  # of Ansible: YAML files and programs, relative to this file


class Fleet(msgspec.Struct, frozen=True):
    """All devices of a project, by name."""

    devices: dict[str, Device]
    groups: dict[str, list[str]]
    folder: Path
    broker: BrokerValues = {}
    rollout: RolloutSettings = RolloutSettings()
    transfer: TransferSettings = TransferSettings()
    pull: PullValues = {}

    def pull_of(self, name: str) -> PullConfig:
        """From where a device pulls: its own values, then the file's; its groups if none are told.

        Raises:
            UsageError: the values do not fit together, or a device at `pull:` has no registry.
        """
        told: PullValues = {}
        for values in (self.pull, self.devices[name].pull):
            for key, value in values.items():
                text = isinstance(value, str)
                told[key] = value.replace("{device}", name) if text else value
        if told:
            groups = [group for group, members in self.groups.items() if name in members]
            told.setdefault("groups", groups)
        try:
            found = PullConfig(**told)
            if self.devices[name].pulls and not found.registry:
                raise ValueError("its address is pull:, and [pull] names no registry")
        except ValueError as error:
            raise UsageError(
                f"{self.folder / 'fleet.toml'}: the [pull] of {name} is not valid",
                str(error),
                "correct it in fleet.toml",
            ) from error
        return found

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

    def select(self, words: list[str]) -> list[str]:
        """List the devices that words mean (`inventories.selection`); no words mean all.

        Raises:
            UsageError: a word names nothing, or two of the devices are one.
        """
        chosen = select(words, self.devices, self.groups, "fleet.toml")
        places: dict[tuple[str, ...], str] = {}
        for name in chosen:
            if self.devices[name].pulls:
                continue
            other = places.setdefault(self._place_of(name), name)
            if other != name:
                raise UsageError(
                    f"{other} and {name} are one device: both have the address "
                    f"{self.devices[name].address} and the same root",
                    "it would be counted twice, and take one's name and then the other's",
                    f"correct one of the addresses; or choose one of them, such as with '!{name}'",
                )
        return chosen

    def _place_of(self, name: str) -> tuple[str, ...]:
        """What two devices cannot share: the account, and ROOT there."""
        device = self.devices[name]
        if device.address.startswith("local:"):
            return ("local", os.path.realpath(device.root or local_folder(self, device)))
        at = parse_destination(device.address.removeprefix("ssh:"))
        user = "" if device.root.startswith("/") else at.user
        port = "" if at.port in (0, SSH_PORT) else str(at.port)
        return ("ssh", at.host.lower(), port, user, os.path.normpath(device.root or DEFAULT_ROOT))


def load(path: Path) -> Fleet:
    """Read `fleet.toml` and the inventories that it names.

    Raises:
        UsageError: a file is missing or cannot be read, or it has an unknown key, a wrong value, a
            bad name or a bad address.
    """
    try:
        table, text = read_table(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", next_step="`edgekit init` writes one") from None
    except IsADirectoryError:
        raise UsageError(
            f"{path} is a folder, not a file", next_step="move it away; `edgekit init` writes one"
        ) from None
    file = convert(table, _File, str(path), text)
    convert(file.broker, _SomeOfBroker, f"{path}: [broker]", text, "broker")
    convert(file.pull, _SomeOfPull, f"{path}: [pull]", text, "pull")
    rollout = convert(file.rollout, RolloutSettings, f"{path}: [rollout]", text, "rollout")
    transfer = convert(file.transfer, TransferSettings, f"{path}: [transfer]", text, "transfer")
    rules = {name: _rule(name, content, path, text) for name, content in file.rules.items()}
    groups = {name: _group(name, content, path, text) for name, content in file.groups.items()}
    tables: dict[str, tuple[Values, str]] = {}
    _add_inventories([path.parent / name for name in file.inventories], tables, groups)
    for name, values in file.devices.items():
        _check_name("device", name, path)
        if name in tables and isinstance(values, dict):
            # a device of an inventory gets values of its own here
            tables[name] = (tables[name][0] | values, str(path))
        else:
            tables[name] = (values, str(path))
    members, naming = devices_of(groups, tables, str(path)), groups_with(groups)
    devices = {
        name: _device(
            name, _ruled(values_of(name, values, groups, naming, str(path)), rules), where, text
        )
        for name, (values, where) in tables.items()
    }
    check_rules({name: device.rules for name, device in devices.items()}, str(path))
    return Fleet(devices, members, path.resolve().parent, file.broker, rollout, transfer, file.pull)


def _rule(name: str, content: Any, path: Path, text: str) -> Any:
    """The table of a rule of every device, which is valid by itself."""
    _check_name("rule", name, path)
    convert(content, Rule, f"{path}: the rule {name}", text, f"rules.{name}")
    return content


def _ruled(values: Values, rules: Values) -> Values:
    """A device's values with the rules of every device."""
    own = values.get("rules", {}) if isinstance(values, dict) else None
    if not rules or not isinstance(own, dict):
        return values  # the type says what is wrong with it
    return values | {"rules": rules | own}


def _device(name: str, values: Values, path: str, text: str) -> Device:
    at, where = f"devices.{name}", f"{path}: the device {name}"
    device = convert(values, Device, where, text, at)
    convert(device.broker, _SomeOfBroker, f"{path}: the broker of {name}", text, f"{at}.broker")
    convert(device.pull, _SomeOfPull, f"{path}: the pull of {name}", text, f"{at}.pull")
    kind, _, rest = device.address.partition(":")
    if not device.pulls and (kind not in ("local", "ssh") or not rest):
        raise UsageError(
            f"{path}: the address of {name} is {device.address!r}",
            "an address is local:FOLDER, ssh:[user@]host[:port], or pull: for a device that pulls",
            NEXT,
        )
    if kind == "ssh":
        _check_destination(rest, f"{path}: the address of {name} is {device.address!r}")
    return device


def _group(name: str, content: Any, path: Path, text: str) -> Group:
    """A group as fleet.toml has it: a list of names, or a table with `members` and values."""
    _check_name("group", name, path)
    at, where = f"groups.{name}", f"{path}: the group {name}"
    if not isinstance(content, dict):
        return Group(convert(content, list[str], where, text, at))
    convert(content, _SomeOfDevice, where, text, at)
    values = dict(content)
    members = values.pop("members", [])
    convert(values.get("broker", {}), _SomeOfBroker, where, text, f"{at}.broker")
    convert(values.get("pull", {}), _SomeOfPull, where, text, f"{at}.pull")
    return Group(members, values)


def _add_inventories(
    paths: list[Path], tables: dict[str, tuple[Values, str]], groups: dict[str, Group]
) -> None:
    """Add the hosts and groups of Ansible's inventories, which are one as Ansible reads them.

    A group of that name in fleet.toml gets its hosts, too. The groups `all` and `ungrouped` are
    not taken: without words every device is chosen.
    """
    found = ansible.Hosts()
    of: dict[str, str] = {}  # the inventory of each host
    for path in paths:
        one = read_hosts(path)
        for host in one.hosts:
            _check_name("device", host, path)
            if host in of:
                raise UsageError(
                    f"{path}: {host} is in {of[host]}, too", next_step="take one of them out"
                )
            of[host] = str(path)
        for name in one.groups:
            _check_name("group", name, path)
        found.join(one)
    for path in paths:
        add_files(found, path)
    file = ", ".join(map(str, paths))
    members = ansible.members(found, file)
    for host, told in ansible.variables(found, members, file).items():
        tables[host] = (ansible.device_table(host, told, of[host]), of[host])
    for name, hosts in members.items():
        if name not in (ansible.ALL, ansible.UNGROUPED):
            known = groups.get(name, Group([]))
            groups[name] = Group(known.members, known.values, hosts)


def _check_destination(text: str, where: str) -> None:
    """Refuse an SSH address that cannot be read, before anything is sent anywhere."""
    try:
        parse_destination(text)
    except UsageError as error:
        raise UsageError(where, error.why, error.next_step) from None


def _check_name(kind: str, name: str, path: Path) -> None:
    try:
        check_name(kind, name)
        if name.startswith("-"):
            raise UsageError(
                f"{name!r} cannot be a {kind}'s name",
                "a command would take it for an option",
                next_step="correct it in the file",
            )
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.why, NEXT) from None


def local_folder(fleet: Fleet, device: Device) -> Path:
    """The folder of a `local:` device."""
    return Path(os.path.normpath(fleet.folder / device.address.removeprefix("local:")))

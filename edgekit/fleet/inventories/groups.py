"""Groups of a fleet: which devices they have, and which values a device gets from them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from edgekit.errors import UsageError
from edgekit.fleet.inventories.selection import unknown_name

Values = dict[str, Any]


class Group(msgspec.Struct, frozen=True):
    """One group as a file has it.

    Attributes:
        members: names of devices and of other groups.
        values: keys of a device's table that its devices have unless they say otherwise.
        hosts: names of devices alone, as an inventory of Ansible has them.
    """

    members: list[str]
    values: Values = {}
    hosts: list[str] = []


class Naming(msgspec.Struct, frozen=True):
    """The groups that name each device, and those that name each group."""

    devices: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}


def devices_of(
    groups: Mapping[str, Group], devices: Collection[str], file: str
) -> dict[str, list[str]]:
    """The devices of each group, those of its groups among them, each once.

    Raises:
        UsageError: a member is neither device nor group, or both; or a group has itself.
    """
    done: dict[str, list[str]] = {}

    def of(name: str, above: tuple[str, ...]) -> list[str]:
        if name in above:
            ring = " has ".join((*above[above.index(name) :], name))
            raise UsageError(f"{file}: the group {name} has itself", ring, "take one of them out")
        if name not in done:
            found: dict[str, None] = {}
            for member in groups[name].members:
                if member in devices and member in groups:
                    raise UsageError(
                        f"{file}: group {name} names {member!r}, which is a device and a group",
                        "nobody can know which one is meant",
                        "rename one of them",
                    )
                if member in devices:
                    found[member] = None
                elif member in groups:
                    found.update(dict.fromkeys(of(member, (*above, name))))
                else:
                    raise unknown_name(
                        f"{file}: group {name} names {member!r}, which is no device",
                        member,
                        [*devices, *groups],
                    )
            found.update(dict.fromkeys(groups[name].hosts))
            done[name] = list(found)
        return done[name]

    for name in groups:
        of(name, ())
    return done


def groups_with(groups: Mapping[str, Group]) -> Naming:
    """Which groups name what; `devices_of` has seen that no name is of a device and a group."""
    found = Naming({}, {})
    for name, group in groups.items():
        for member in dict.fromkeys((*group.hosts, *group.members)):
            into = found.devices
            if member in groups and member not in group.hosts:
                into = found.groups
            into.setdefault(member, []).append(name)
    return found


def values_of(
    device: str,
    own: Values,
    groups: Mapping[str, Group],
    naming: Naming,
    file: str,
) -> Values:
    """The values of one device: its own, then those of its groups.

    A group within a group wins over the outer one, as in an Ansible inventory. Tags are joined, and
    the keys of `broker` are taken one by one.

    Args:
        device: its name.
        own: its own values.
        groups: all groups; `devices_of` has checked them.
        naming: what `groups_with` says of them.

    Raises:
        UsageError: two groups, neither within the other, give it different values for one key.
    """
    if not isinstance(own, dict):
        return own  # the type says what is wrong with it
    told: dict[tuple[str, ...], tuple[str, Any]] = {key: ("", value) for key, value in _flat(own)}
    tags: list[str] = []
    for name in _inner_first(naming.devices.get(device, []), naming):
        for key, value in _flat(groups[name].values):
            if key == ("tags",):
                tags += value
            elif key not in told:
                told[key] = (name, value)
            elif told[key][0] and told[key][1] != value:
                _check_nested(device, key, told[key], (name, value), naming, file)
    values: Values = {}
    for key, (_, value) in told.items():
        place = values
        for part in key[:-1]:
            place = place.setdefault(part, {})
        place[key[-1]] = value
    if tags and isinstance(own.get("tags", []), list):
        values["tags"] = list(dict.fromkeys((*own.get("tags", []), *tags)))
    return values


def _check_nested(
    device: str,
    key: tuple[str, ...],
    first: tuple[str, Any],
    second: tuple[str, Any],
    naming: Naming,
    file: str,
) -> None:
    """Check that the group with the second value has the one with the first within it."""
    if second[0] not in _inner_first(naming.groups.get(first[0], []), naming):
        raise UsageError(
            f"{file}: {device} has two values for {'.'.join(key)}",
            f"the group {first[0]} says {first[1]!r}, the group {second[0]} says {second[1]!r}",
            f"say it in [devices.{device}], or in one of the two groups alone",
        )


def _inner_first(layer: list[str], naming: Naming) -> list[str]:
    """These groups and those that they are within, a group before those."""
    found: dict[str, None] = {}
    while layer:
        for name in layer:
            found.pop(name, None)
        found.update(dict.fromkeys(layer))
        above = (name for inner in layer for name in naming.groups.get(inner, []))
        layer = list(dict.fromkeys(above))
    return list(found)


def _flat(values: Values) -> list[tuple[tuple[str, ...], Any]]:
    """The keys with their values; those of a table one by one."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += [((key, inner), each) for inner, each in value.items()]
        else:
            found.append(((key,), value))
    return found

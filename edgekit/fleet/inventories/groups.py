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
    """

    members: list[str]
    values: Values = {}


def devices_of(
    groups: Mapping[str, Group], devices: Collection[str], file: str
) -> dict[str, list[str]]:
    """The devices of each group, those of its groups among them, each once.

    Raises:
        UsageError: a group has a member that is neither device nor group, or it has itself.
    """
    done: dict[str, list[str]] = {}

    def of(name: str, above: tuple[str, ...]) -> list[str]:
        if name in above:
            ring = " has ".join((*above[above.index(name) :], name))
            raise UsageError(f"{file}: the group {name} has itself", ring, "take one of them out")
        if name not in done:
            found: dict[str, None] = {}
            for member in groups[name].members:
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
            done[name] = list(found)
        return done[name]

    for name in groups:
        of(name, ())
    return done


def groups_with(groups: Mapping[str, Group]) -> dict[str, list[str]]:
    """For each member, the groups that name it."""
    found: dict[str, list[str]] = {}
    for name, group in groups.items():
        for member in group.members:
            found.setdefault(member, []).append(name)
    return found


def values_of(
    device: str,
    own: Values,
    groups: Mapping[str, Group],
    naming: Mapping[str, list[str]],
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
    for name in _inner_first(device, naming):
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
    naming: Mapping[str, list[str]],
    file: str,
) -> None:
    """Check that the group with the second value has the one with the first within it."""
    if second[0] not in _inner_first(first[0], naming):
        raise UsageError(
            f"{file}: {device} has two values for {'.'.join(key)}",
            f"the group {first[0]} says {first[1]!r}, the group {second[0]} says {second[1]!r}",
            f"say it in [devices.{device}], or in one of the two groups alone",
        )


def _inner_first(member: str, naming: Mapping[str, list[str]]) -> list[str]:
    """The groups that a member is in, a group before those that it is within."""
    found: dict[str, None] = {}
    layer = naming.get(member, [])
    while layer:
        for name in layer:
            found.pop(name, None)
        found.update(dict.fromkeys(layer))
        layer = list(dict.fromkeys(name for inner in layer for name in naming.get(inner, [])))
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

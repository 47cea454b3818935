"""Ansible's inventories as devices and groups: YAML files, and what executable ones print. Pure.

Groups, ranges of names and the order in which variables win are Ansible's
(https://docs.ansible.com/ansible/latest/inventory_guide/intro_inventory.html); `ansible-inventory`
is the oracle of the tests. Of the variables, a device takes those that say how to reach it, and
those that begin with `edgekit_`: `edgekit_threads: 2` is `threads = 2` of fleet.toml. All others
are for Ansible.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgekit.errors import UsageError

Values = dict[str, Any]

OURS = "edgekit_"
ALL, UNGROUPED = "all", "ungrouped"
_RANGE = re.compile(r"\[(?P<first>[0-9A-Za-z]*):(?P<last>[0-9A-Za-z]+)(?::(?P<step>[0-9]{1,9}))?\]")
_GROUP_KEYS = ("hosts", "children", "vars")
CONNECTIONS = ("ssh", "smart", "paramiko", "paramiko_ssh", "local")
# They change how ssh logs in, or where it leads; a device's address cannot say that.
_OWN_SSH = (
    *("ansible_ssh_private_key_file", "ansible_private_key_file", "ansible_ssh_common_args"),
    *("ansible_ssh_extra_args", "ansible_ssh_executable", "ansible_ssh_args"),
    *("ansible_paramiko_private_key_file", "ansible_paramiko_proxy_command"),
)
MOST_HOSTS = 100_000
"""Names of one range; Ansible has no bound, and a slip of a finger takes all memory."""
_PASSWORDS = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
_REFUSED = dict.fromkeys(
    _OWN_SSH, "write it into ~/.ssh/config as a Host, and take the variable away"
) | dict.fromkeys(_PASSWORDS, "edgekit logs in with keys: put one on the device with ssh-copy-id")


class HostGroup(msgspec.Struct):
    """A group of an inventory."""

    hosts: dict[str, None] = {}
    children: dict[str, None] = {}
    variables: Values = {}


class Hosts(msgspec.Struct):
    """An inventory: its groups, and the variables of its hosts.

    Attributes:
        group_files, host_files: variables of `group_vars/` and `host_vars/`, by name.
    """

    groups: dict[str, HostGroup] = {}
    hosts: dict[str, Values] = {}
    group_files: dict[str, Values] = {}
    host_files: dict[str, Values] = {}

    def group(self, name: str) -> HostGroup:
        """The group of that name; made if it is new."""
        return self.groups.setdefault(name, HostGroup())

    def join(self, other: Hosts) -> None:
        """Add another inventory that Ansible would read after this one."""
        for name, group in other.groups.items():
            mine = self.group(name)
            mine.hosts |= group.hosts
            mine.children |= group.children
            mine.variables |= group.variables
        for host, values in other.hosts.items():
            self.hosts.setdefault(host, {}).update(values)


# --- reading ----------------------------------------------------------------------------------
def parse_yaml_hosts(tree: object, file: str) -> Hosts:
    """An inventory from the content of a YAML file.

    Raises:
        UsageError: the content has another shape; says where.
    """
    found = Hosts()
    if not tree:
        raise UsageError(f"{file} is empty", "Ansible takes no such file", "write a group into it")
    if isinstance(tree, dict) and isinstance(tree.get("plugin"), str):
        raise UsageError(
            f"{file} configures the inventory plugin {tree['plugin']}",
            "only Ansible can run it",
            "give edgekit what `ansible-inventory --list --yaml --export` prints",
        )
    for name, group in _mapping(tree, file, "the file").items():
        _read_group(found, _name(name, "group", file), group, file, ())
    return found


def _read_group(into: Hosts, name: str, content: object, file: str, above: tuple[str, ...]) -> None:
    if name in above:  # an alias of YAML can lie within itself
        raise _has_itself(name, above, file)
    group = into.group(name)
    where = f"the group {name}"
    for key, value in _mapping(content, file, where).items():
        if key not in _GROUP_KEYS:
            raise UsageError(
                f"{file}: {where} has the key {key!r}",
                f"a group has {', '.join(_GROUP_KEYS)}",
                f"move it below `vars:` or `hosts:` of {name}",
            )
        one = {value: None} if isinstance(value, str) and key != "vars" else value
        inner = _mapping(one, file, f"`{key}` of {where}")
        if key == "vars":
            group.variables |= inner
        elif key == "children":
            for named, below in inner.items():
                child = _name(named, "group", file)
                group.children[child] = None
                _read_group(into, child, below, file, (*above, name))
        else:
            for named, values in inner.items():
                pattern, port = _split_port(_name(named, "host", file))
                told = port | _mapping(values, file, f"the host {pattern}")
                for host in expand(pattern, file):
                    group.hosts[host] = None
                    into.hosts.setdefault(host, {}).update(told)


def parse_printed_hosts(tree: object, file: str) -> tuple[Hosts, bool]:
    """An inventory from the JSON that an executable one prints for `--list`.

    Returns:
        The inventory, and whether it has the variables of the hosts (`_meta`).

    Raises:
        UsageError: the JSON has another shape; says where.
    """
    found = Hosts()
    table = _mapping([] if tree is None else tree, file, "its output")
    meta = table.pop("_meta", None)
    for name, content in table.items():
        group = found.group(name)
        told = {"hosts": content} if isinstance(content, list) else content
        for key, value in _mapping(told, file, f"the group {name}").items():
            if key == "vars":
                group.variables |= _mapping(value, file, f"`vars` of {name}")
            elif key in ("hosts", "children") and isinstance(value, list):
                named = [_name(each, key.removesuffix("s"), file) for each in value]
                (group.hosts if key == "hosts" else group.children).update(dict.fromkeys(named))
            else:
                raise UsageError(
                    f"{file}: `{key}` of the group {name} cannot be used",
                    "`hosts` and `children` are lists, and `vars` is an object",
                    "correct what the program prints for --list",
                )
        for host in group.hosts:
            found.hosts.setdefault(host, {})
        for child in group.children:
            found.group(child)
    variables = _mapping(meta, file, "_meta").get("hostvars")
    for host, told in _mapping(variables, file, "hostvars").items():
        if host in found.hosts:  # as Ansible has it: a host is what a group lists
            found.hosts[host].update(_mapping(told, file, f"the host {host}"))
    return found, variables is not None


def _mapping(value: object, file: str, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{file}: {where} is no mapping",
            f"it is {value!r:.60}",
            "see Ansible's page on inventories, or try `ansible-inventory --list -i` with it",
        )
    return dict(value)


def _name(told: object, kind: str, file: str) -> str:
    """A name as it is written; YAML takes `0123`, `1.10` and `on` for something else."""
    if not isinstance(told, str):
        raise UsageError(
            f"{file}: the {kind} {told!r} is no text",
            f"YAML takes its name for a {type(told).__name__}",
            "put the name into quotes",
        )
    return told


def _split_port(pattern: str) -> tuple[str, Values]:
    """A name like `pi-1:2222` as Ansible reads it: the name, and a port if there is one."""
    found = re.fullmatch(r"((?:[^:\[\]]|\[[^\[\]]*\])+):([0-9]{1,5})", pattern)
    return (found[1], {"ansible_port": int(found[2])}) if found else (pattern, {})


def expand(pattern: str, file: str) -> list[str]:
    """The names of a pattern: `pi[01:03]` is pi01, pi02, pi03; `db-[a:c]` and steps work, too.

    Raises:
        UsageError: the range cannot be read, or has more than `MOST_HOSTS` names.
    """
    found = _RANGE.search(pattern)
    if not found:
        if "[" in pattern and not pattern.startswith("["):
            raise UsageError(
                f"{file}: {pattern!r} is no range of hosts",
                "a range is [01:20]",
                next_step="correct it in the inventory",
            )
        return [pattern]
    first, last, step = found["first"] or "0", found["last"], int(found["step"] or 1)
    letters = string.ascii_letters
    names: Sequence[str] = ()
    if first.isdigit() and last.isdigit() and step:
        width = len(first) if first.startswith("0") and len(first) > 1 else 0
        if width and len(last) != width:
            raise UsageError(
                f"{file}: {pattern!r} is no range",
                "both ends have equal digits",
                next_step="correct it in the inventory",
            )
        if len(last) > 9 or (int(last) - int(first)) // step >= MOST_HOSTS:
            raise UsageError(
                f"{file}: {pattern!r} has more than {MOST_HOSTS} names", "", "correct the range"
            )
        names = [f"{number:0{width}}" for number in range(int(first), int(last) + 1, step)]
    elif len(first) == len(last) == 1 and first in letters and last in letters and step:
        names = letters[letters.index(first) : letters.index(last) + 1 : step]
    if not names:
        raise UsageError(
            f"{file}: {pattern!r} is no range of hosts",
            "a range is [01:20] or [a:f]",
            next_step="correct it in the inventory",
        )
    start, rests = pattern[: found.start()], expand(pattern[found.end() :], file)
    if len(names) * len(rests) > MOST_HOSTS:
        raise UsageError(
            f"{file}: {pattern!r} has more than {MOST_HOSTS} names", "", "correct the range"
        )
    return [f"{start}{value}{rest}" for value in names for rest in rests]


# --- merging ----------------------------------------------------------------------------------
def members(found: Hosts, file: str) -> dict[str, list[str]]:
    """The hosts of each group, those of its groups among them, each once.

    Raises:
        UsageError: a group is within itself.
    """
    done: dict[str, list[str]] = {}
    for name in found.groups:
        _members(found, name, done, (), file)
    return done


def _members(
    found: Hosts, name: str, done: dict[str, list[str]], above: tuple[str, ...], file: str
) -> list[str]:
    if name in above:
        raise _has_itself(name, above, file)
    if name not in done:
        hosts = dict(found.groups[name].hosts)
        for child in found.groups[name].children:
            hosts.update(dict.fromkeys(_members(found, child, done, (*above, name), file)))
        if name == ALL:
            hosts.update(dict.fromkeys(found.hosts))
        done[name] = list(hosts)
    return done[name]


def _has_itself(name: str, above: tuple[str, ...], file: str) -> UsageError:
    ring = " has ".join((*above[above.index(name) :], name))
    return UsageError(f"{file}: the group {name} has itself", ring, "take one of them out")


def variables(found: Hosts, of: Mapping[str, list[str]], file: str) -> dict[str, Values]:
    """The variables of every host; what is nearer to it wins, as Ansible has it.

    Args:
        found: the inventory.
        of: what `members` says of it.
        file: for messages.

    Raises:
        UsageError: a group's priority is no number.
    """
    depths = _depths(found)

    def rank(name: str) -> tuple[int, int, str]:
        priority = found.groups[name].variables.get("ansible_group_priority", 1)
        try:
            return depths[name], int(priority), name
        except (TypeError, ValueError):
            raise UsageError(
                f"{file}: ansible_group_priority of the group {name} is {priority!r:.60}",
                "it is a number",
                "correct it in the inventory",
            ) from None

    order = [ALL, *sorted((name for name in found.groups if name != ALL), key=rank)]
    inline = {name: group.variables for name, group in found.groups.items()}
    told: dict[str, Values] = {host: {} for host in found.hosts}
    for values in (inline, found.group_files):  # any file wins over any group of the inventory
        for name in order:
            for host in of.get(name, told):  # an inventory need not name `all`
                told[host] |= values.get(name, {})
    for host, own in found.hosts.items():
        told[host] |= own | found.host_files.get(host, {})
    return told


def _depths(found: Hosts) -> dict[str, int]:
    """How far each group is below `all`; `members` has shown that none is within itself."""
    depths = {name: int(name != ALL) for name in found.groups}
    layer = list(found.groups)
    while layer:
        below: dict[str, None] = {}
        for name in layer:
            for child in found.groups[name].children:
                if depths[child] <= depths[name]:
                    depths[child] = depths[name] + 1
                    below[child] = None
        layer = list(below)
    return depths


# --- devices ----------------------------------------------------------------------------------
def device_table(host: str, told: Values, file: str) -> Values:
    """A device's table of fleet.toml from the variables of a host.

    Raises:
        UsageError: a variable that decides how to reach the device cannot be honoured.
    """
    for name, instead in _REFUSED.items():
        if told.get(name) not in (None, ""):
            raise UsageError(f"{file}: {host} has {name}", "edgekit does not read it", instead)
    connection = _plain(told, "ansible_connection", host, file) or "ssh"
    table: Values = {
        name.removeprefix(OURS): _known(value, host, name, file)
        for name, value in told.items()
        if name.startswith(OURS)
    }
    if connection.rsplit(".", 1)[-1] not in CONNECTIONS:
        raise UsageError(
            f"{file}: {host} has ansible_connection {connection!r}",
            "edgekit reaches a device by ssh or in a folder",
            "leave it out of the inventory that edgekit reads",
        )
    if "address" not in table:
        table["address"] = (
            f"local:.edgekit/devices/{host}"
            if connection == "local"
            else f"ssh:{_destination(host, told, file)}"
        )
    python = _plain(told, "ansible_python_interpreter", host, file)
    if python and not python.startswith("auto"):
        table.setdefault("python", python)
    return table


def _destination(host: str, told: Values, file: str) -> str:
    def first(*names: str) -> str:
        found = (_plain(told, name, host, file) for name in names)
        return next((text for text in found if text), "")

    name = first("ansible_host", "ansible_ssh_host") or host
    user = first("ansible_user", "ansible_ssh_user")
    port = first("ansible_port", "ansible_ssh_port")
    if port and ":" in name:
        name = f"[{name}]"
    return (f"{user}@" if user else "") + name + (f":{port}" if port else "")


def _plain(told: Values, name: str, host: str, file: str) -> str:
    """A variable as text; empty without it."""
    value = _known(told.get(name), host, name, file)
    if isinstance(value, bool | list | dict):
        raise UsageError(
            f"{file}: {name} of {host} is no text",
            f"YAML takes it for a {type(value).__name__}: {value!r:.60}",
            "put it into quotes, or correct it",
        )
    return "" if value is None else str(value)


def _known(value: Any, host: str, name: str, file: str) -> Any:
    """The value; raises UsageError where only Ansible could compute it, or a part of it."""
    if isinstance(value, str) and any(sign in value for sign in ("{{", "{%")):
        raise UsageError(
            f"{file}: {name} of {host} is a template",
            f"only Ansible can compute {value!r}",
            "write the value, or give edgekit what `ansible-inventory --list --yaml --export` "
            "prints",
        )
    if isinstance(value, Mapping | list):
        for each in (*value, *value.values()) if isinstance(value, Mapping) else value:
            _known(each, host, name, file)
    return value

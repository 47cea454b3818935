"""Reads an inventory of Ansible: a YAML file with its `group_vars/` and `host_vars/`, or a program.

Ansible's own rule: an executable file is asked with `--list`, and with `--host NAME` for each host
where its answer has no `_meta`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError
from edgekit.fleet.inventories import ansible
from edgekit.fleet.inventories.ansible import Hosts, Values, parse_printed_hosts, parse_yaml_hosts

LIST_SECONDS = 60.0
YAML = (".yaml", ".yml", ".json")
SUFFIXES = ("", ".yml", ".yaml", ".json")
"""Of files of variables, in the order in which Ansible looks for them."""


def read_hosts(path: Path) -> Hosts:
    """Read an inventory; `add_files` adds what lies beside it.

    Raises:
        UsageError: it is missing or in another form, or the program fails.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}", next_step="name a YAML file, or a program")
    if path.suffix in YAML:
        found = parse_yaml_hosts(_yaml(path), str(path))
    elif os.access(path, os.X_OK):
        found = _printed(path)
    else:
        raise UsageError(
            f"{path} is neither YAML nor a program",
            f"edgekit reads {', '.join(YAML)}, and files that it may execute",
            f"make one with `ansible-inventory -i {path} --list --yaml --export`",
        )
    return found


def add_files(found: Hosts, path: Path) -> None:
    """Add the variables of `group_vars/` and `host_vars/` beside an inventory.

    Raises:
        UsageError: a file there is encrypted, or has no variables.
    """
    for told, folder, names in (
        (found.group_files, "group_vars", (ansible.ALL, *found.groups)),
        (found.host_files, "host_vars", found.hosts),
    ):
        for name, values in _beside(path.parent / folder, names).items():
            told.setdefault(name, {}).update(values)


def _beside(folder: Path, names: Iterable[str]) -> dict[str, Values]:
    """The variables of these names in a folder.

    Ansible's rule: of `NAME`, `NAME.yml`, `NAME.yaml` and `NAME.json` the first that is there
    counts, be it a file or a folder of files. Others, such as an editor's `NAME.yml~`, do not.
    """
    found: dict[str, Values] = {}
    for name in names if folder.is_dir() else ():
        places = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
        place = next((place for place in places if place.exists()), None)
        if place is None:
            continue
        told: Values = {}
        for file in _files(place) if place.is_dir() else [place]:
            content = _yaml(file)
            if content is not None and not isinstance(content, dict):
                raise UsageError(
                    f"{file} has no variables",
                    f"it is {content!r:.60}",
                    next_step="write a mapping of names to values into it",
                )
            told |= content or {}
        found[name] = told
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The files of variables in a folder and in folders without an ending below it, by name."""
    for place in sorted(folder.iterdir()):
        if place.name.startswith(".") or place.name.endswith("~"):
            continue
        if place.is_dir() and not place.suffix:
            yield from _files(place)
        elif place.is_file() and place.suffix in SUFFIXES:
            yield place


def _yaml(path: Path) -> Any:
    from edgekit.fleet.inventories.yamlfile import read_yaml  # noqa: PLC0415  few fleets have YAML

    return read_yaml(path)


def _printed(program: Path) -> Hosts:
    found, whole = parse_printed_hosts(_run(program, "--list"), str(program))
    if not whole:
        for host, values in found.hosts.items():
            told = _run(program, "--host", host)
            if not isinstance(told, dict):
                raise UsageError(
                    f"{program} --host {host} prints no object",
                    f"{told!r:.60}",
                    next_step="run it by hand",
                )
            values.update(told)
    return found


def _run(program: Path, *arguments: str) -> Any:
    said = f"{program} {' '.join(arguments)}"
    try:
        done = subprocess.run(
            [program.resolve(), *arguments],
            capture_output=True,
            timeout=LIST_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"{said} did not end", f"it was stopped after {LIST_SECONDS:g} s", "run it by hand"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{said} does not run", error.strerror or str(error), next_step="run it by hand"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UsageError(
            f"{said} ended with {done.returncode}", (lines or [""])[-1], "run it by hand"
        )
    if not done.stdout.strip() and arguments[0] == "--host":
        return {}  # Ansible takes it for a host without variables
    try:
        return msgspec.json.decode(done.stdout)
    except UNREADABLE as error:
        raise UsageError(
            f"{said} prints no JSON", f"{error}; it printed {done.stdout[:80]!r}", "run it by hand"
        ) from error

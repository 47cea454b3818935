"""Reads an inventory of Ansible: a YAML file with its `group_vars/` and `host_vars/`, or a program.

Ansible's own rule: an executable file is asked with `--list`, and with `--host NAME` for each host
where its answer has no `_meta`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import UsageError
from edgekit.fleet.inventories.ansible import Hosts, Values, parse_printed_hosts, parse_yaml_hosts

LIST_SECONDS = 60.0
YAML = (".yaml", ".yml", ".json")


def read_hosts(path: Path) -> Hosts:
    """Read an inventory.

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
    found.group_files = dict(_beside(path.parent / "group_vars"))
    found.host_files = dict(_beside(path.parent / "host_vars"))
    return found


def _beside(folder: Path) -> Iterator[tuple[str, Values]]:
    """The variables in a folder: one file, or a folder of files, for each name."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        told: Values = {}
        for file in files:
            if file.is_file() and file.suffix in (*YAML, "") and not file.name.startswith("."):
                content = _yaml(file)
                if content is not None and not isinstance(content, dict):
                    raise UsageError(f"{file} has no variables", f"it is {content!r:.60}")
                told |= content or {}
        yield (place.name if place.is_dir() else place.stem), told


def _yaml(path: Path) -> Any:
    from edgekit.fleet.inventories.yamlfile import read_yaml  # noqa: PLC0415  few fleets have YAML

    return read_yaml(path)


def _printed(program: Path) -> Hosts:
    found, whole = parse_printed_hosts(_run(program, "--list"), str(program))
    if not whole:
        for host, values in found.hosts.items():
            told = _run(program, "--host", host)
            if not isinstance(told, dict):
                raise UsageError(f"{program} --host {host} prints no object", f"{told!r:.60}")
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
        raise UsageError(f"{said} does not run", error.strerror or str(error)) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UsageError(
            f"{said} ended with {done.returncode}", (lines or [""])[-1], "run it by hand"
        )
    try:
        return msgspec.json.decode(done.stdout)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{said} prints no JSON", f"{error}; it printed {done.stdout[:80]!r}", "run it by hand"
        ) from error

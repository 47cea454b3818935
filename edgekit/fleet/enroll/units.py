"""The units of `deploy/systemd` for one device: for its ROOT and Python, system or user. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from edgekit.fleet.enroll.values import SYSTEM_ROOT

PYTHON = "/usr/bin/python3"  # as the files of deploy/systemd have it
_PLAIN = re.compile(r"[A-Za-z0-9_./@:,=+~-]*\Z")
_HOMES = ("/home", "/root", "/run/user")
_HOME_ROOT = "%h/.local/share/edgekit"  # as the files of deploy/systemd/user have it


def problem_of_path(root: PurePosixPath, python: str, *, system: bool) -> str:
    """Why units cannot name these paths; empty if they can."""
    for path in (str(root), python):
        if not _PLAIN.match(path):
            return f"a unit cannot name {path!r}: it has more than letters, digits and ._-@:,=+~"
        homes = [home for home in _HOMES if path == home or path.startswith(f"{home}/")]
        if system and homes:
            return f"{path} lies below {homes[0]}, which the unit does not see (ProtectHome)"
    return ""


def system_units(units: dict[str, str], root: PurePosixPath, python: str) -> dict[str, str]:
    """The files of a system install."""
    found = {}
    for name, text in units.items():
        lines = []
        for line in text.splitlines():
            if line.startswith("StateDirectory=") and root != SYSTEM_ROOT:
                lines.append(f"ReadWritePaths={root}")
            elif not (line.startswith("StateDirectory") and root != SYSTEM_ROOT):
                lines.append(_for(line, root, python))
        found[name] = "\n".join(lines) + "\n"
    return found


def user_units(units: dict[str, str], root: PurePosixPath, python: str) -> dict[str, str]:
    """The files of a user's systemd; the account that pushes owns ROOT, so there is no updater."""
    return {
        name: "".join(_for(line, root, python) for line in text.splitlines(keepends=True))
        for name, text in units.items()
    }


def _for(line: str, root: PurePosixPath, python: str) -> str:
    """A line of a unit with the paths of one device."""
    if line.startswith("#"):
        return line
    for known in (str(SYSTEM_ROOT), _HOME_ROOT):
        line = line.replace(known, str(root))
    return line.replace(PYTHON, python)


def door(text: str, python: str) -> str:
    """The door's script for the device's Python."""
    return text.replace(f"#!{PYTHON}", f"#!{python}", 1)


def installable(units: dict[str, str]) -> list[str]:
    """The units that are enabled: those with an [Install] section."""
    return [name for name, text in units.items() if "\n[Install]" in text]


def started(units: dict[str, str], *, has_release: bool) -> list[str]:
    """The units to start at once: sockets and paths; services where a release is there."""
    ready = [name for name in installable(units) if not name.endswith(".service")]
    services = [name for name in installable(units) if name.endswith(".service")]
    return ready + (services if has_release else [])

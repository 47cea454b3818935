"""What this controller remembers of an enrolled device: `.edgekit/enrolled/NAME.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.digest import decode_hook
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError
from edgekit.fleet.facts import DeviceFacts
from edgekit.store import publish


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled device.

    Attributes:
        address: with which it was enrolled: the account that may change or remove it.
        before: the keys of its table in fleet.toml that enrolling replaced, as they were.
        system: whether it is a system install; None until it is enrolled.
        pinned: file and line of known_hosts that enrolling wrote; empty: the key was known.
    """

    address: str
    root: str
    starts: str = ""
    system: bool | None = None
    host_key: str = ""
    pinned: tuple[str, str] | None = None
    before: dict[str, Any] = {}
    facts: DeviceFacts | None = None


def place(project: Path, name: str) -> Path:
    """The file of a device."""
    return project / ".edgekit" / "enrolled" / f"{name}.json"


def recall(project: Path, name: str) -> Remembered | None:
    """What is remembered of a device.

    Raises:
        UsageError: the file cannot be read.
    """
    path = place(project, name)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Remembered, dec_hook=decode_hook)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise UsageError(
            f"{path} cannot be read", str(error), "remove it, and name the account with --as"
        ) from error


def remember(project: Path, name: str, told: Remembered) -> None:
    """Write it down, so that a power cut does not lose it."""
    path = place(project, name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    publish(path, msgspec.json.format(msgspec.json.encode(told, enc_hook=str), indent=1), 0o600)


def forget(project: Path, name: str) -> None:
    """Remember nothing of a device any more."""
    path = place(project, name)
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()
    except OSError:
        return

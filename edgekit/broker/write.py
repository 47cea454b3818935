"""Writes the files of a Mosquitto into a folder, and the passwords of those it serves beside them.

FOLDER/mosquitto/        what `mosquitto` makes; replaced when told to
FOLDER/passwords/NAME    0600; kept when the files are written again
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from edgekit.broker.mosquitto import SALT_BYTES, Account, BrokerSetup, files
from edgekit.errors import UsageError
from edgekit.store import publish

PASSWORD_BYTES = 24  # of randomness
PLUGIN = "mosquitto_dynamic_security.so"  # below /usr/lib in Debian's package mosquitto


class Written(msgspec.Struct, frozen=True):
    """What lies in the folder now."""

    files: tuple[Path, ...]
    passwords: dict[str, Path]  # by the name of a device or a requester


def files_folder(folder: Path) -> Path:
    """Where `write` puts the files of the broker."""
    return folder / "mosquitto"


def write(folder: Path, setup: BrokerSetup, *, force: bool) -> Written:
    """Write the broker's files; make a password for each name that has none yet.

    Args:
        folder: made where it is missing.
        setup: whom the broker serves, and how.
        force: whether files of the broker that are there are replaced.

    Raises:
        UsageError: files are there already, or a file of a password is empty or no UTF-8 text.
    """
    broker, locked = files_folder(folder), folder / "passwords"
    paths = {name: locked / name for name in (*setup.devices, *setup.requesters)}
    passwords = {
        name: _kept(path) or secrets.token_urlsafe(PASSWORD_BYTES) for name, path in paths.items()
    }
    salted = [
        Account(name, password, secrets.token_bytes(SALT_BYTES))
        for name, password in passwords.items()
    ]
    made = files(setup, salted)
    there = [str(broker / name) for name in made if (broker / name).exists()]
    if there and not force:
        raise UsageError(
            f"{folder} has these files already", ", ".join(there), "--force replaces them"
        )
    broker.mkdir(parents=True, exist_ok=True)
    locked.mkdir(mode=0o700, exist_ok=True)
    for name, path in paths.items():
        if not path.exists():
            publish(path, f"{passwords[name]}\n".encode(), 0o600)
    for name, (content, mode) in made.items():
        publish(broker / name, content, mode)
    return Written(tuple(broker / name for name in made), paths)


def find_plugin() -> str:
    """Path of Mosquitto's plugin of dynamic security on this machine.

    Raises:
        UsageError: it is not installed.
    """
    for path in sorted(Path("/usr/lib").glob(f"*/{PLUGIN}")):
        return str(path)
    raise UsageError(
        f"{PLUGIN} is not on this machine",
        "Debian's package mosquitto has it below /usr/lib",
        "name its path on the broker's machine with --plugin",
    )


def _kept(path: Path) -> str:
    """The password that was made before, or empty."""
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no password: it is not UTF-8 text",
            str(error),
            "remove it, and a new password is made",
        ) from error
    if not text:
        raise UsageError(f"{path} is empty", next_step="remove it, and a new password is made")
    return text

"""Writes the files of a Mosquitto into a folder, and the passwords of its accounts beside them.

FOLDER/mosquitto/        the files that `broker.mosquitto` makes; `force` replaces them
FOLDER/passwords/NAME    one password, mode 0600; kept when the files are written again
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
    """The paths that the folder holds after a write."""

    files: tuple[Path, ...]
    passwords: dict[str, Path]  # by the name of a device or another account


def files_folder(folder: Path) -> Path:
    """The folder that receives the broker's files."""
    return folder / "mosquitto"


def write(folder: Path, setup: BrokerSetup, *, force: bool) -> Written:
    """Write the broker's files; make a password for each name that has none yet.

    Args:
        folder: made when it is missing.
        setup: the broker with its devices and requesters.
        force: whether to replace the broker's existing files.

    Raises:
        UsageError: files are there already, or a password's file is empty, cannot be read or is
            not UTF-8 text.
    """
    broker, locked = files_folder(folder), folder / "passwords"
    names = (*setup.devices, *setup.requesters, *setup.operators, *setup.gateways)
    paths = {name: locked / name for name in names}
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
    """Find Mosquitto's dynamic-security plugin on this machine.

    Raises:
        UsageError: the plugin is not installed.
    """
    for path in sorted(Path("/usr/lib").glob(f"*/{PLUGIN}")):
        return str(path)
    raise UsageError(
        f"{PLUGIN} is not on this machine",
        "Debian's package mosquitto has it below /usr/lib",
        "name its path on the broker's machine with --plugin",
    )


def _kept(path: Path) -> str:
    """Return the password that an earlier call made; empty where there is none."""
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text", str(error), "remove it, and a new password is made"
        ) from error
    except OSError as error:  # another user's file, or a folder in its place
        raise UsageError(
            f"{path} cannot be read",
            str(error),
            "make it a file that you may read, or remove it, and a new password is made",
        ) from error
    if not text:
        raise UsageError(f"{path} is empty", next_step="remove it, and a new password is made")
    return text

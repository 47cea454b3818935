"""Encrypted private keys: asks for the passphrase on the terminal, once per key and run."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import paramiko

TRIES = 3  # as OpenSSH's NumberOfPasswordPrompts
_unlocked: dict[Path, Any] = {}
_BROKEN = (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType)


def unlock(file: Path) -> Any:
    """The private key of an encrypted file; asks at most three times.

    Returns:
        None without a terminal, without an answer, or when every answer is wrong.
    """
    if file in _unlocked:
        return _unlocked[file]
    for _ in range(TRIES):
        try:
            with Path("/dev/tty").open("r+b", buffering=0) as terminal:
                if not terminal.isatty():
                    return None
            phrase = getpass.getpass(f"Enter passphrase for key '{file}': ")
        except (OSError, EOFError):
            return None
        if not phrase:
            return None
        try:
            _unlocked[file] = paramiko.PKey.from_path(file, password=phrase.encode())
        except _BROKEN:
            continue
        return _unlocked[file]
    return None


def hint(file: Path) -> str:
    """What to do about a key that stayed locked."""
    return f"{file} is encrypted: give it to the agent with `ssh-add {file}`"

"""Encrypted private keys: asks for the passphrase on the terminal, once per key and run."""

from __future__ import annotations

import getpass
import threading
from pathlib import Path
from typing import Any

import paramiko

from edgekit import terminal

TRIES = 3  # as OpenSSH's NumberOfPasswordPrompts
_unlocked: dict[Path, Any] = {}
_asked: dict[Path, int] = {}  # how often each file's passphrase was asked for
_one_at_a_time = threading.Lock()
_BROKEN = (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType)


def unlock(file: Path) -> Any:
    """The private key of an encrypted file; asks at most three times.

    Connections that are made at the same time share one question and its answer.

    Returns:
        None without a terminal, without an answer, or when every answer is wrong.
    """
    before = _asked.get(file, 0)
    with _one_at_a_time:
        if file in _unlocked or _asked.get(file, 0) != before:
            return _unlocked.get(file)
        try:
            return _ask(file)
        finally:
            _asked[file] = before + 1


def _ask(file: Path) -> Any:
    for _ in range(TRIES):
        try:
            with Path("/dev/tty").open("r+b", buffering=0) as device:
                if not device.isatty():
                    return None
            with terminal.question():
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

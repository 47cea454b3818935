"""API keys: a file of hashes, each with the requester as whom its bearer asks.

A key is 256 random bits, so one SHA-256 suffices: there is nothing to guess that a slow hash would
slow down. The file holds no key, and is for its owner alone.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from edgekit.core.config import NAME, check_name
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError
from edgekit.store import publish

PREFIX = "ek-"
KEY_BYTES = 32
SHOWN = 8  # characters of a hash that name a key
MAX_KEY_CHARS = 256  # of what a stranger presents
MAKE = "`edgekit gateway key add NAME` makes one"


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key: the SHA-256 of its text in hex, its requester, and the day it was made."""

    requester: Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    added: str

    @property
    def id(self) -> str:
        """What names the key in a list."""
        return self.sha256[:SHOWN]


def id_of(key: str) -> str:
    """What names a key in a list."""
    return hashed(key)[:SHOWN]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...]


def hashed(key: str) -> str:
    """The SHA-256 of a key in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def requester_of(keys: tuple[ApiKey, ...], presented: str) -> str:
    """The requester of a presented key; empty for an unknown one.

    It takes the same time wherever the key stands, and whether it is there.
    """
    digest = hashed(presented[:MAX_KEY_CHARS])
    found = ""
    for each in keys:
        if hmac.compare_digest(each.sha256, digest):
            found = each.requester
    return found


def add(path: Path, requester: str, today: datetime.date) -> str:
    """Make a key for a requester; returns its text, which is nowhere else.

    Raises:
        UsageError: the name is none, or the file cannot be used.
    """
    check_name("requester", requester)
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    with _changing(path):
        before = load(path) if path.exists() else ()
        _write(path, (*before, ApiKey(requester, hashed(key), today.isoformat())))
    return key


def revoke(path: Path, name: str) -> list[ApiKey]:
    """Take away a key, named by its id, or all keys of a requester; returns them.

    Raises:
        UsageError: there is none, or the file cannot be used.
    """
    if not path.exists():
        load(path)  # says what is missing
    with _changing(path):
        keys = load(path)
        gone = [key for key in keys if name in (key.id, key.requester)]
        if not gone:
            raise UsageError(
                f"no key has the id or the requester {name!r}",
                f"{path} has {len(keys)}",
                "`edgekit gateway key list` shows them",
            )
        _write(path, tuple(key for key in keys if key not in gone))
    return gone


def load(path: Path) -> tuple[ApiKey, ...]:
    """Read the file.

    Raises:
        UsageError: it is missing, not for its owner alone, or not a file of keys.
    """
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        raise UsageError("the gateway has no API keys", f"there is no {path}", MAKE) from None
    except OSError as error:
        raise UsageError(
            f"the API keys in {path} cannot be read", error.strerror or str(error), MAKE
        ) from None
    if mode & 0o077:
        raise UsageError(
            f"others can read or change the API keys in {path}",
            f"its mode is {mode & 0o777:o}",
            f"run: chmod 600 {path}",
        )
    try:
        return msgspec.json.decode(data, type=_File).keys
    except UNREADABLE as error:
        raise UsageError(
            f"{path} is not a file of API keys", str(error), f"move it away; {MAKE}"
        ) from error


class KeyRing:
    """The file as it is now: a key that is added or revoked counts from the next request on.

    Raises:
        UsageError: see `load`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = (0, 0, 0, 0)
        self._keys: tuple[ApiKey, ...] = ()
        self.requester_of("")

    def requester_of(self, presented: str) -> str:
        """See `requester_of`; raises UsageError where the file cannot be read any more."""
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)
        except OSError:
            seen = (0, 0, 0, 0)
        if seen != self._seen or not self._keys:
            self._keys = load(self._path)
            self._seen = seen
        return requester_of(self._keys, presented)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Keep other commands from changing the keys at the same time; a killed one lets go."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    publish(path, msgspec.json.format(msgspec.json.encode(_File(keys))) + b"\n", 0o600)

"""A `state.db` that is damaged is put aside, and its facts are recorded anew from the rest of ROOT.

A card that loses a block must not keep a device down. A file of zero bytes, as a power cut may
leave it, is a new database to SQLite: beside releases it is one that was lost. The folders say
which releases are whole, the links which of them was good, and the signed metadata which counter
each has. The history and the refusals are lost; the damaged file stays as `state.db.broken`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from edgekit.agent.release.log import say
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import parse_config
from edgekit.core.reading import UNREADABLE
from edgekit.core.release import ReleaseState
from edgekit.errors import VerificationError
from edgekit.store import fsync_folder
from edgekit.trust.signed import CUSTOM, SignedRelease, target_path

DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_RELEASE = """
INSERT OR IGNORE INTO releases (digest, name, version, state, since, tries, reason)
VALUES (?, ?, ?, ?, ?, ?, '')
"""
_TRIAL = "INSERT OR IGNORE INTO trials VALUES (?, ?, 0, NULL, NULL)"
_COUNTER = "INSERT OR IGNORE INTO counters (digest, counter, good) VALUES (?, ?, ?)"


class _Target(msgspec.Struct, frozen=True):
    custom: dict[str, SignedRelease]


class _Targets(msgspec.Struct, frozen=True):
    targets: dict[str, msgspec.Raw]


class _TargetsFile(msgspec.Struct, frozen=True):
    signed: _Targets


class _Kept(msgspec.Struct, frozen=True):
    targets: str


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether SQLite has found other bytes than it wrote; an unreadable disk is not that."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in DAMAGED  # the low byte is the primary code


def has_releases(root: Path) -> bool:
    """Whether there are releases, whose states are in `state.db` unless it was lost."""
    return any((root / layout.RELEASES).glob("[0-9a-f]*"))


def is_blank(db: sqlite3.Connection, root: Path) -> bool:
    """Whether a file knows no release, and there are some: it is not the one that they had."""
    return db.execute("SELECT 1 FROM releases").fetchone() is None and has_releases(root)


def check(db: sqlite3.Connection) -> None:
    """Read every page of a small file; raises sqlite3.DatabaseError if one is damaged."""
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def put_aside(path: Path) -> None:
    """Give a damaged file another name, once."""
    with _alone(path):
        try:
            with closing(sqlite3.connect(path)) as db:
                check(db)
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
        else:
            return  # another process was faster
        aside = path.with_name(f"{path.name}.broken")
        path.replace(aside)
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
        fsync_folder(path.parent)
    say(f"{path} is damaged; it is kept as {aside.name}, and what ROOT says is recorded anew")


def record_anew(db: sqlite3.Connection, root: Path) -> None:
    """Fill empty tables with what the rest of ROOT says.

    `current` was good unless something of a trial is left; then its trial has failed when the next
    supervisor looks. `previous` and `older` were good. Others are staged: a trial decides.
    """
    current = _linked(root / layout.CURRENT)
    on_trial = any(
        os.path.lexists(root / name)
        for name in (layout.OLDER, layout.GOOD_CONFIG, layout.TRIAL_FILE)
    )
    good = {_linked(root / layout.PREVIOUS), _linked(root / layout.OLDER)}
    if not on_trial:
        good.add(current)
    now, counters = time.time(), _counters(root)
    for folder in sorted((root / layout.RELEASES).glob("[0-9a-f]*")):
        try:
            digest = Digest.from_hex(folder.name)
            config = parse_config((folder / layout.BUNDLE_CONFIG).read_bytes())
        except (OSError, VerificationError):
            continue
        tried = digest == current and on_trial
        state = ReleaseState.GOOD if digest in good else ReleaseState.STAGED
        state = ReleaseState.TRIAL if tried else state
        db.execute(_RELEASE, (digest, config.name, config.version, state, now, int(tried)))
        if tried:
            db.execute(_TRIAL, (digest, now))
        if (counter := counters.get(target_path(digest))) is not None:
            db.execute(_COUNTER, (digest, counter, int(digest in good)))


def _linked(link: Path) -> Digest | None:
    try:
        return Digest.from_hex(link.readlink().name)
    except (OSError, VerificationError):
        return None


def _counters(root: Path) -> dict[str, int]:
    """The counter of each release in the metadata that was verified last, by its target's path."""
    found = {}
    try:
        kept = msgspec.json.decode((root / layout.TRUST / "trusted.json").read_bytes(), type=_Kept)
        targets = msgspec.json.decode(kept.targets, type=_TargetsFile).signed.targets
    except (OSError, *UNREADABLE):
        return {}
    for path, target in targets.items():
        try:
            found[path] = msgspec.json.decode(target, type=_Target).custom[CUSTOM].counter
        except (*UNREADABLE, KeyError):
            continue
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

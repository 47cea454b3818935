"""Scrub: hashes again what lies on the disk, and mends what can be mended here.

It reads the blobs of every kept release, and holds each tree against its layer. It says what it
found in `ROOT/scrub.json`, which also has the place from which a scrub that was broken off goes on.

A damaged blob loses its name, so that the next push sends it again. The file of a release that it
is a hard link of stays: a running model keeps it, and a restart finds it. A damaged tree is mended
from its layer. A file of a release that is not its blob any more becomes a link to it again.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.space.retention import kept_releases
from edgekit.agent.release.space.survey import blobs_of, manifest_of, survey
from edgekit.agent.release.staging import tree as trees
from edgekit.agent.release.staging.stage import linked_files
from edgekit.agent.release.upkeep.quiet import Throttle, read_past_cache
from edgekit.core import layout
from edgekit.core.digest import Digest, decode_hook, encode_hook
from edgekit.core.manifest import AGENT_TYPE, RUNTIME_TYPE
from edgekit.core.wire import UNREADABLE
from edgekit.errors import EdgekitError, VerificationError
from edgekit.store import publish, replace_file_by_link

DUE_SECONDS = 7 * 86_400.0  # from the end of one scrub by itself to the start of the next
MAX_KEPT_DAMAGE = 50

FETCH = "it has lost its name: the next push sends it again"
MENDED = "it was mended from its layer"
LINKED = "it is a link to its blob again"
LATER = "its layer has to be sent again first: push to the device"


class Damage(msgspec.Struct, frozen=True):
    """One thing that was damaged.

    Attributes:
        kind: `blob`, `tree` or `file` (of a release).
        digest: of the blob, the tree's layer or the file.
        what: what is wrong with it.
        done: what was done about it.
        mended: whether it is whole again.
        at: Unix seconds.
    """

    kind: str
    digest: Digest
    what: str
    done: str
    mended: bool
    at: float


class Scrubbed(msgspec.Struct, frozen=True):
    """How far a scrub came; the file `ROOT/scrub.json`.

    Attributes:
        started, finished: Unix seconds; finished is 0 while it is under way.
        position: the last thing that was checked, `blob HEX` or `tree HEX`; empty after the end.
        checked: how many blobs and trees; `checked_bytes` in all.
        found: what was damaged, in this scrub and those before; the last `MAX_KEPT_DAMAGE`.
    """

    started: float = 0.0
    finished: float = 0.0
    position: str = ""
    checked: int = 0
    checked_bytes: int = 0
    found: list[Damage] = []


def last(root: Root) -> Scrubbed | None:
    """The last scrub as its file says it; None without one, or if it cannot be read."""
    try:
        data = root.scrub_file.read_bytes()
        return msgspec.json.decode(data, type=Scrubbed, dec_hook=decode_hook)
    except (OSError, *UNREADABLE, VerificationError):
        return None


def is_due(before: Scrubbed | None, now: float) -> bool:
    """Whether a scrub by itself is due: none was finished within a week, by a clock that may jump.

    Args:
        before: the last scrub.
        now: Unix seconds.
    """
    return before is None or not 0 <= now - before.finished < DUE_SECONDS


def scrub(root: Root, rate: int, clock: Callable[[], float] = time.time) -> Scrubbed:
    """Check everything from where the last scrub broke off, or from the start.

    Args:
        root: the device's folder.
        rate: bytes per second; 0 has no limit.
        clock: Unix seconds.

    Raises:
        EdgekitError: another scrub is under way.
    """
    with _alone(root):
        before = last(root) or Scrubbed()
        going_on = bool(before.position)
        now = before if going_on else _begun(before, clock())
        pace = Throttle(rate)
        for position, check in _checks(root, pace):
            if going_on and position <= before.position:
                continue
            began = pace.done
            found = [*now.found, *check(max(clock(), now.started))][-MAX_KEPT_DAMAGE:]
            now = msgspec.structs.replace(
                now,
                position=position,
                checked=now.checked + 1,
                checked_bytes=now.checked_bytes + pace.done - began,
                found=found,
            )
            _save(root, now)
        now = msgspec.structs.replace(now, position="", finished=clock())
        _save(root, now)
        return now


def _begun(before: Scrubbed, now: float) -> Scrubbed:
    """A new scrub. What is known was found before it, also if the clock was set back since."""
    known = [msgspec.structs.replace(each, at=min(each.at, now - 0.001)) for each in before.found]
    return Scrubbed(started=now, found=known)


def _save(root: Root, state: Scrubbed) -> None:
    with suppress(OSError):  # a full disk: what is found is printed all the same
        publish(root.scrub_file, msgspec.json.encode(state, enc_hook=encode_hook))


@contextmanager
def _alone(root: Root) -> Iterator[None]:
    root.create()
    with (root.path / layout.SCRUB_LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EdgekitError(
                "this device is scrubbed already",
                "another process hashes its disk",
                "wait for it to end; `edgekit state` says what it found",
            ) from None
        yield


def _checks(root: Root, pace: Throttle) -> Iterator[tuple[str, Callable[[float], list[Damage]]]]:
    """What is to be checked, sorted by position: blobs, then the files of releases, then trees."""
    kept = sorted(kept_releases(survey(root)))
    of_release = {digest: blobs_of(root, digest) or [digest] for digest in kept}
    blobs = {blob for found in of_release.values() for blob in found}
    for blob in sorted(blobs):
        yield f"blob {blob.hex}", partial(_check_blob, root, blob, pace)
    for digest in kept:
        yield f"files {digest.hex}", partial(_check_links, root, digest)
    layers = {
        layer.digest
        for digest in kept
        if (manifest := manifest_of(root, digest)) is not None
        for layer in manifest.layers
        if layer.media_type in (AGENT_TYPE, RUNTIME_TYPE) and layer.digest in of_release[digest]
    }
    for layer in sorted(layers):
        yield f"tree {layer.hex}", partial(_check_tree, root, layer, pace)


def _check_blob(root: Root, blob: Digest, pace: Throttle, now: float) -> list[Damage]:
    path = root.store.path(blob)
    problems = [_problem(path, blob, pace)]
    if problems[0] and path.exists():
        problems.append(_problem(path, blob, pace))  # a memory that flips a bit is no damaged disk
    if not all(problems):
        return []
    if path.exists():
        with root.updating(yields=True):
            if _problem(path, blob, pace):  # a push may have replaced it
                root.store.remove(blob)
    return [Damage("blob", blob, problems[-1], FETCH, False, now)]


def _problem(path: Path, blob: Digest, pace: Throttle) -> str:
    """What is wrong with a blob; empty if nothing is."""
    try:
        found = Digest.of(read_past_cache(path, pace))
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if found == blob else f"its bytes have the digest {found}"


def _check_links(root: Root, digest: Digest, now: float) -> list[Damage]:
    """Hold a release's files against their blobs, which were checked before."""
    manifest = manifest_of(root, digest)
    folder = root.release(digest)
    found = []
    for blob, place in linked_files(root, manifest, folder) if manifest else []:
        if not folder.exists() or not blob.exists():
            continue
        if place.exists() and place.samefile(blob):
            continue
        with root.updating(yields=True):
            if folder.exists() and blob.exists():
                replace_file_by_link(place, blob)
                root.mended_file.touch()
                named = Digest.from_hex(blob.name)
                what = f"{place.name} was not its blob"
                found.append(Damage("file", named, what, LINKED, True, now))
    return found


def _check_tree(root: Root, layer: Digest, pace: Throttle, now: float) -> list[Damage]:
    blob, place = root.store.path(layer), root.path / layout.tree(layer)
    if not blob.exists():
        return []  # that is a finding already, and a push brings layer and tree back
    wrong = trees.differences(blob, place, lambda path: read_past_cache(path, pace))
    if not wrong:
        return []
    what = f"{len(wrong)} of its files are not those of its layer: {', '.join(wrong[:3])}"
    with root.updating(yields=True):
        trees.mend(blob, place, wrong)
        whole = not trees.differences(blob, place)
        root.mended_file.touch()
    return [Damage("tree", layer, what, MENDED if whole else LATER, whole, now)]

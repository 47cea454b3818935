"""Decides which releases of a device stay, and what else on its disk is garbage. Pure.

`collect` reads the disk into a `Survey` and removes what `garbage` names. The rules:

1.  Kept are: `current`, `previous`, `older`; the newest release on trial (an unproven one is on
    trial); pinned releases; the newest staged release, which was not activated yet; the release
    that a push offers now; a release from which a process runs; a release in a state that only a
    later version knows.
2.  A tree or blob stays if a kept release uses it, or if the offered release needs it; a tree also
    if a process runs from it.
3.  A part of a transfer stays if the offered release needs it. Nothing is collected while another
    push is at work, whose parts are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState


class ReleaseFolder(msgspec.Struct, frozen=True):
    """A release's folder on the disk.

    Attributes:
        state: its state as recorded; None without a row.
        changed: a higher number for each release that came into its state later.
        blobs, trees: what it uses, as hex digests.
        in_use: a process runs from it.
    """

    state: str | None
    changed: int
    blobs: frozenset[str]
    trees: frozenset[str]
    in_use: bool = False


class Survey(msgspec.Struct, frozen=True):
    """What a disk holds that the retention decides on; blobs, trees and parts as hex digests."""

    folders: Mapping[Digest, ReleaseFolder]
    links: Mapping[str, Digest | None]  # `current`, `previous` and `older`
    pinned: frozenset[Digest] = frozenset()
    offered: Digest | None = None
    wanted: frozenset[str] = frozenset()  # blobs of the offered release
    blobs: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()
    in_use: frozenset[str] = frozenset()  # releases and trees from which a process runs


class Garbage(msgspec.Struct, frozen=True):
    """What can go, and why each release that stays does so."""

    kept: Mapping[Digest, str] = {}
    releases: tuple[Digest, ...] = ()
    trees: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


def garbage(survey: Survey) -> Garbage:
    """Name what no rule keeps, releases first: no release ever lacks a tree or blob."""
    kept = kept_releases(survey)
    folders = [survey.folders[digest] for digest in kept if digest in survey.folders]
    used = survey.wanted.union(*(folder.blobs for folder in folders), (d.hex for d in kept))
    trees = survey.wanted.union(survey.in_use, *(folder.trees for folder in folders))
    return Garbage(
        kept,
        tuple(sorted(set(survey.folders) - set(kept))),
        tuple(sorted(survey.trees - trees)),
        tuple(sorted(survey.blobs - used)),
        tuple(sorted(survey.parts - survey.wanted)),
    )


def kept_releases(survey: Survey) -> dict[Digest, str]:
    """The releases that stay, each with the reason: the first rule that holds."""
    kept: dict[Digest, str] = {}
    for name, linked in survey.links.items():
        if linked is not None:
            kept.setdefault(linked, name)
    for state in (ReleaseState.TRIAL, ReleaseState.STAGED):
        if newest := _newest(survey, state):
            kept.setdefault(newest, state.value)
    for digest, folder in survey.folders.items():
        if digest in survey.pinned:
            kept.setdefault(digest, "pinned")
        elif folder.in_use:
            kept.setdefault(digest, "in use")
        elif folder.state is not None and folder.state not in set(ReleaseState):
            kept.setdefault(digest, folder.state)
    if survey.offered is not None:
        kept.setdefault(survey.offered, "offered")
    return kept


def _newest(survey: Survey, state: ReleaseState) -> Digest | None:
    found = [(f.changed, digest) for digest, f in survey.folders.items() if f.state == state]
    return max(found)[1] if found else None

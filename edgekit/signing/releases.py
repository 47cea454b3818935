"""Signs releases, and gathers what a push sends with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.manifest import PLATFORM, BundleConfig
from edgekit.errors import UsageError, VerificationError
from edgekit.signing import roles
from edgekit.signing.change import check_root_age, propose, resume
from edgekit.signing.folder import Repository
from edgekit.signing.manage import Trust, ensure, refresh
from edgekit.signing.signers import Signers
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.rules import NEVER
from edgekit.trust.signed import Metadata, SignedRelease

_HARDWARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}\Z")


class Signing(msgspec.Struct, frozen=True):
    """The result of signing a release.

    Attributes:
        release: what the metadata says, or will say once it is complete.
        changed: whether anything was signed; the same words are not signed twice.
        waits: the signatures that are missing; empty: it is published.
    """

    release: SignedRelease
    changed: bool
    waits: list[str]


def sign(
    trust: Trust,
    signers: Signers,
    pinned: PinnedManifest,
    bundle: BundleConfig,
    now: datetime,
    *,
    hardware: Sequence[str] = (),
    rollback: bool = False,
) -> Signing:
    """Put a release among the targets of a project.

    A new release gets the next counter. One that is signed already keeps its own: only a rollback
    entry lets a device go back to it, from any release that is signed by then.

    Args:
        trust: the project's; its keys and metadata are made if it has none.
        signers: what signs.
        pinned: the release.
        bundle: its config.
        now: the time that is signed.
        hardware: a device must have one of these names; empty: as signed before, else the platforms
            of the bundle's runtimes.
        rollback: whether devices with a newer release may go back to it.

    Raises:
        UsageError: a name of hardware cannot be one, or another change waits.
        EdgekitError, VerificationError: the signer failed.
    """
    for name in hardware:
        if not _HARDWARE.match(name):
            raise UsageError(
                f"{name!r} is no name of hardware",
                "it has letters, digits, dots, dashes, underscores and slashes",
                "name it as a device's etc/hardware does, or by its platform: linux/arm64",
            )
    ensure(trust, now)
    with trust.folder.locked():
        resume(trust.folder, signers, now)
        published = trust.folder.read()
        signers.check_files(published.root.keys)
        before = published.newest_targets()
        known = roles.release_in(before, pinned.digest)
        newest = roles.highest_counter(before)
        release = SignedRelease(
            name=bundle.name,
            version=bundle.version,
            counter=known.counter if known else newest + 1,
            hardware=list(hardware) or (known.hardware if known else _platforms(pinned)),
            rollback=newest if rollback else (known.rollback if known else 0),
        )
        if release == known and not roles.old_age([before], now):
            refresh(trust, signers, now)
            return Signing(release, False, [])
        targets = roles.next_targets(before, now)
        roles.put_release(targets, pinned.digest, len(pinned.data), release)
        return Signing(release, True, propose(trust.folder, signers, now, targets=targets))


def ready(trust: Trust, now: datetime) -> None:
    """Make what a project lacks, and find before a long command what would refuse to sign.

    Raises:
        VerificationError: the metadata is damaged, or the root has expired.
        UsageError: a key cannot be used.
    """
    ensure(trust, now)
    if not trust.folder.exists:
        return
    with trust.folder.locked():
        resume(trust.folder, Signers(trust.keys), now)
        published = trust.folder.read()
        published.newest_targets()
        if published.timestamp:
            published.check(NEVER)
        check_root_age(published.root, now)


def sign_if_held(
    trust: Trust, pinned: PinnedManifest, bundle: BundleConfig, now: datetime
) -> Signing | None:
    """Sign a release as `pack` does; None if no key of targets is on this machine.

    `ready` has been called. A change that waits for signatures is left to its signers: the release
    is then not signed.
    """
    with trust.folder.locked():
        signers = Signers(trust.keys)
        if resume(trust.folder, signers, now) or not trust.folder.exists:
            return None
        held = any(signers.has(i) for i in roles.keys_of(trust.folder.read().root, "targets"))
    return sign(trust, signers, pinned, bundle, now) if held else None


def lookup(trust: Trust, release: Digest) -> SignedRelease | None:
    """What the newest targets.json says of a release; None if it is not signed."""
    if not trust.folder.exists:
        return None
    with trust.folder.locked():
        published = trust.folder.read()
    return roles.release_in(published.newest_targets(), release)


def _platforms(pinned: PinnedManifest) -> list[str]:
    return sorted({layer.annotations[PLATFORM] for layer in pinned.manifest.runtimes})


@dataclass(frozen=True)
class Vouched:
    """What a push sends with a release, and what its user should know.

    Attributes:
        release: what the metadata says of the release.
        warnings: of files that have lived more than half of their life.
    """

    release: SignedRelease
    published: Repository
    warnings: list[str]

    @property
    def metadata(self) -> Metadata:
        """The files as a push sends them."""
        return texts(self.published)


def vouch(trust: Trust, release: Digest, reference: str, now: datetime) -> Vouched:
    """Check that a release is signed, and refresh snapshot and timestamp where they need it.

    Args:
        trust: the project's.
        release: its digest.
        reference: how a person names the release, for the next step.
        now: the time.

    Raises:
        VerificationError: the release is not signed, or a device would not accept the metadata.
    """
    if not trust.folder.exists and trust.folder.pending() is None:
        raise _unsigned(reference)
    with trust.folder.locked():
        published = refresh(trust, Signers(trust.keys), now)
        waits = trust.folder.pending() is not None
    return _find(published, release, reference, now, waits)


def find(trust: Trust, release: Digest, reference: str, now: datetime) -> Vouched:
    """As `vouch`, without signing anything."""
    if not trust.folder.exists:
        raise _unsigned(reference)
    with trust.folder.locked():
        waits = trust.folder.pending() is not None
        return _find(trust.folder.read(), release, reference, now, waits)


def _find(
    published: Repository, release: Digest, reference: str, now: datetime, waits: bool
) -> Vouched:
    newest = published.newest_targets()
    if not published.timestamp:
        raise _without_online(reference)
    found = roles.release_in(published.check(now), release)
    if found is None:
        if roles.release_in(newest, release):
            raise _without_online(reference)
        raise _unsigned(reference, waits)
    return Vouched(found, published, roles.old_age(_files(published), now))


def _unsigned(reference: str, waits: bool = False) -> VerificationError:
    return VerificationError(
        f"the bundle {reference} is not signed",
        "a device takes only what this project's metadata lists",
        "another key has to sign: `edgekit key sign`" if waits else f"`edgekit sign {reference}`",
    )


def _files(published: Repository) -> tuple[roles.File, ...]:
    return (published.root, published.newest_targets(), *published.online())


def _without_online(reference: str) -> VerificationError:
    return VerificationError(
        f"the snapshot does not list {reference} yet",
        "the key of snapshot and timestamp (online) is not on this machine",
        "run `edgekit push` where it is, or bring `trust/` from there",
    )


def texts(published: Repository) -> Metadata:
    """The files as they travel."""
    return Metadata(
        [data.decode() for data in published.roots],
        published.timestamp.decode(),
        published.snapshot.decode(),
        published.listed.decode(),
    )

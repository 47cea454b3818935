"""A project's trust for the commands that sign; only they import TUF."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.layout import Layout
from edgekit.cli import project, render
from edgekit.core.digest import Digest
from edgekit.core.manifest import parse_config
from edgekit.signing.folder import TrustFolder
from edgekit.signing.manage import Trust
from edgekit.signing.signers import KeyFolder, Signers
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import SignedRelease

KeyOption = Annotated[
    list[Path] | None,
    typer.Option("--key", help="A private key kept elsewhere, for this command; repeatable."),
]
SignerOption = Annotated[
    str,
    typer.Option(
        help="A program that gets the bytes on stdin and prints an Ed25519 signature in hex."
    ),
]


def trust_of(folder: Path) -> Trust:
    """The metadata and the keys of the project in a folder."""
    lock = folder / ".edgekit" / "signing.lock"
    return Trust(TrustFolder(folder / "trust", lock), KeyFolder(project.keys_folder(folder)))


def signers_of(trust: Trust, keys: list[Path] | None, signer: str) -> Signers:
    """What signs for one command."""
    return Signers(trust.keys, keys or (), signer)


def present() -> datetime:
    """The time that is signed."""
    return datetime.now(UTC)


def reference_of(store: Layout, pinned: PinnedManifest) -> str:
    """How a person names a bundle: NAME:VERSION, or its digest if no name leads to it."""
    names = [name for name, digest in store.names().items() if digest == pinned.digest]
    config = parse_config(store.read(pinned.manifest.config.digest))
    own = f"{config.name}:{config.version}"
    return own if own in names else next(iter(names), Digest(pinned.digest))


def say_waits(waits: list[str]) -> None:
    """Say what a change waits for, and how it goes on."""
    for wait in waits:
        render.say(f"waits    {wait}")
    if waits:
        render.say("next     `edgekit key sign` on a machine with such a key, with this trust/")


def said(release: SignedRelease) -> str:
    """What the metadata says of a release, in one line."""
    back = f"; back from {release.rollback}" if release.rollback else ""
    return f"counter {release.counter}, for {', '.join(release.hardware)}{back}"

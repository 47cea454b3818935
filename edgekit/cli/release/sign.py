"""`sign` and `verify`: which releases this project's devices may run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.release.trust import (
    KeyOption,
    SignerOption,
    present,
    reference_of,
    said,
    say_waits,
    signers_of,
    trust_of,
)
from edgekit.core.manifest import parse_config
from edgekit.signing import releases
from edgekit.signing.carried import open_carried
from edgekit.signing.releases import find
from edgekit.signing.verify import check_blobs, verify_carried

BundleArgument = Annotated[
    str | None, typer.Argument(help="NAME:VERSION, name or digest; default: the newest.")
]


def sign(
    bundle: BundleArgument = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Let devices with a newer release go back to it.")
    ] = False,
    hardware: Annotated[
        list[str] | None,
        typer.Option(help="A device must have one of these; default: the bundle's platforms."),
    ] = None,
    keys: KeyOption = None,
    signer: SignerOption = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle: devices of this project may then run it.

    \b
    Example:  edgekit sign smollm2:1 --rollback
    """
    here = project.find(project_folder)
    pinned = here.store.resolve(bundle)
    config = parse_config(here.store.read(pinned.manifest.config.digest))
    trust = trust_of(here.folder)
    with render.working("signing"):
        done = releases.sign(
            trust,
            signers_of(trust, keys, signer),
            pinned,
            config,
            present(),
            hardware=hardware or (),
            rollback=rollback,
        )
    if as_json:
        told = {"digest": pinned.digest, "release": msgspec.to_builtins(done.release)}
        render.print_json(
            told | {"changed": done.changed, "published": not done.waits, "waits": done.waits}
        )
        return
    verb = "signed" if done.changed else "already"
    render.say(f"{verb:<8} {reference_of(here.store, pinned)}  {said(done.release)}")
    say_waits(done.waits)


def _is_path(text: str, names: Iterable[str]) -> bool:
    """Whether a text means an export: a model's folder may have a bundle's name."""
    known = {part for name in names for part in (name, name.rpartition(":")[0])}
    return text not in known and Path(text).exists()


def verify(
    bundle: Annotated[
        str | None,
        typer.Argument(help="NAME:VERSION, or a file or folder of `edgekit export`."),
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle as a device would: its metadata, and every blob by its hash.

    \b
    Example:  edgekit verify smollm2:1
    """
    here = project.find(project_folder)
    trust = trust_of(here.folder)
    with render.transferring("verify") as bar:
        if bundle and _is_path(bundle, here.store.names()):
            with open_carried(Path(bundle)) as carried:
                accepted = verify_carried(carried, trust, present(), bar)
            first = accepted.first
            checked = [(r.pinned.digest, r.release, r.bytes) for r in accepted.releases]
        else:
            pinned, first = here.store.resolve(bundle), False
            found = find(trust, pinned.digest, reference_of(here.store, pinned), present())
            size = check_blobs(here.store, pinned.manifest, bar)
            checked = [(pinned.digest, found.release, size)]
            for warning in found.warnings:
                render.warn(warning)
    if as_json:
        told = [
            {"digest": digest, "release": msgspec.to_builtins(release), "bytes": size}
            for digest, release, size in checked
        ]
        render.print_json({"verified": told, "first_use": first})
        return
    if first:
        render.warn("this project has no root of trust: the export's own root was believed")
    for digest, release, size in checked:
        render.say(
            f"good     {release.name}:{release.version}  {digest.short}  {render.size(size)}, "
            f"{said(release)}"
        )

"""`export` and `import`: a bundle and its metadata without a network."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.release.sign import BundleArgument
from edgekit.cli.release.trust import present, reference_of, said, trust_of
from edgekit.core.digest import Digest
from edgekit.core.manifest import PLATFORM, PYTHON, Manifest
from edgekit.errors import UsageError
from edgekit.signing.carried import open_carried, write_folder, write_tar
from edgekit.signing.releases import vouch
from edgekit.signing.verify import bring


def export(
    bundle: BundleArgument = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="FILE.tar, or a folder such as /media/usb/edgekit.")
    ] = Path(),
    platform: Annotated[
        list[str] | None,
        typer.Option(help="Only runtimes for PLATFORM or PLATFORM:PYTHON; repeatable."),
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bundle with its metadata to a tar or a folder; it holds nothing private.

    \b
    Example:  edgekit export smollm2:1 -o smollm2.tar --platform linux/arm64
    """
    here = project.find(project_folder)
    pinned = here.store.resolve(bundle)
    reference = reference_of(here.store, pinned)
    blobs = [pinned.digest, *_chosen(pinned.manifest, platform or [])]
    target = _target(out, pinned.digest)
    trust = trust_of(here.folder)
    vouched = vouch(trust, pinned.digest, reference, present())
    for warning in vouched.warnings:
        render.warn(warning)
    write = write_tar if target.suffix == ".tar" else write_folder
    with render.transferring("export") as bar:
        write(target, vouched.published, here.store, set(blobs), bar)
    size = sum(here.store.path(digest).stat().st_size for digest in set(blobs))
    if as_json:
        render.print_json({"digest": pinned.digest, "path": str(target), "bytes": size})
        return
    render.say(f"exported {reference}  {render.size(size)} to {target}, {said(vouched.release)}")


def _target(out: Path, digest: Digest) -> Path:
    """Where to write; raises UsageError for a place that holds something else."""
    if out == Path():
        return Path(f"{digest.short}.tar")
    if out.suffix == ".tar":
        if out.is_dir():
            raise UsageError(f"{out} is a folder", next_step="name a file, or another folder")
        if not out.absolute().parent.is_dir():
            raise UsageError(f"there is no folder {out.parent}", next_step="make it first")
        if out.exists() and not out.is_file():
            raise UsageError(f"{out} is no file", next_step="name a file to write")
        if out.is_file() and out.stat().st_size and not tarfile.is_tarfile(out):
            raise UsageError(
                f"{out} exists, and is no tar",
                "what it holds would be lost",
                "name another file, or move that one away",
            )
        return out
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"{out} is a file, and its name does not end in .tar",
            next_step="name it FILE.tar, or name a folder",
        )
    if out.is_dir() and any(out.iterdir()) and not (out / "blobs").is_dir():
        raise UsageError(
            f"{out} holds other files",
            "an export fills a folder of its own",
            f"name a new folder in it: -o {out / 'edgekit'}",
        )
    return out


def _chosen(manifest: Manifest, platforms: list[str]) -> list[Digest]:
    """The blobs for some platforms, or for all."""
    kept = []
    for runtime in manifest.runtimes:
        name = runtime.annotations[PLATFORM]
        if not platforms or {name, f"{name}:{runtime.annotations[PYTHON]}"} & set(platforms):
            kept.append(runtime)
    known = {r.annotations[PLATFORM] for r in manifest.runtimes}
    known |= {f"{r.annotations[PLATFORM]}:{r.annotations[PYTHON]}" for r in manifest.runtimes}
    for wanted in platforms:
        if wanted not in known:
            raise UsageError(
                f"the bundle has no runtime for {wanted}",
                f"it was packed for {', '.join(sorted(known))}",
                "name one of these, or pack it again with --runtime",
            )
    others = [layer for layer in manifest.layers if layer not in manifest.runtimes]
    return [layer.digest for layer in (manifest.config, *others, *kept)]


def import_(
    source: Annotated[Path, typer.Argument(help="A tar or folder of `edgekit export`.")],
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a bundle and newer metadata from an export, verified by this project's root of trust.

    \b
    Example:  edgekit import smollm2.tar
    """
    here = project.find(project_folder)
    store = here.store
    with open_carried(source) as carried, render.transferring("import") as bar:
        accepted = bring(carried, trust_of(here.folder), store, present(), bar)
        for found in accepted.releases:
            store.name(f"{found.release.name}:{found.release.version}", found.pinned.data)
    if accepted.first:
        render.warn("this project had no root of trust: it now believes that of the export")
    if as_json:
        names = {
            f"{r.release.name}:{r.release.version}": r.pinned.digest for r in accepted.releases
        }
        render.print_json({"imported": names, "first_use": accepted.first})
        return
    for found in accepted.releases:
        lacks = f"; without {', '.join(b.title for b in found.absent)}" if found.absent else ""
        render.say(
            f"imported {found.release.name}:{found.release.version}  {found.pinned.digest.short}  "
            f"{render.size(found.bytes)}, {said(found.release)}{lacks}"
        )

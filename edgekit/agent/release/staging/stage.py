"""Staging: turn verified blobs into a whole release folder, or change nothing."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.agent.release.lease import claim, claimable
from edgekit.agent.release.root import Root
from edgekit.agent.release.space.collect import collect, find
from edgekit.agent.release.space.room import check_room
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.staging.goldenfile import check_golden, golden_links
from edgekit.agent.release.staging.hashed import Hashed
from edgekit.agent.release.staging.permission import permitted
from edgekit.agent.release.staging.trees import unpack_once
from edgekit.agent.release.state import Releases
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    RUNTIME_TYPE,
    Descriptor,
    Manifest,
    oci_platform,
    parse_config,
)
from edgekit.errors import VerificationError
from edgekit.store import fsync_folder, publish, replace_file_by_link, sync_file_system
from edgekit.trust.verified import VerifiedManifest


def offer(root: Root, verified: VerifiedManifest) -> dict[str, object]:
    """Store a manifest and report which of its blobs this device lacks.

    Returns:
        `missing`: a list of `digest`, `size` (bytes) and `have` (bytes of an earlier transfer).

    Raises:
        VerificationError: the bundle has no runtime for this device.
        EdgekitError: the disk is too small, or another push is in progress.
    """
    wanted = for_this_device(verified.manifest)
    named = [verified.digest, *(each.digest for each in wanted)]
    freed = 0
    try:
        claim(root)
    except OSError:  # no other push is at work, and the disk is too full to say that this one is
        freed = collect(root, verified.digest, named).freed
        claim(root)
    _drop_long_parts(root, wanted)
    missing = _missing(root, wanted)
    if _needs_room(root, verified.digest, missing):
        freed += collect(root, verified.digest, named).freed
    check_room(root, wanted, missing, freed)
    root.store.put(verified.data)
    publish(root.offered_file, verified.digest.encode())
    return {"missing": missing}


def foresee(root: Root, verified: VerifiedManifest) -> dict[str, object]:
    """What `offer` would answer and refuse; changes nothing on this device.

    Returns:
        `missing` as `offer`; `room`: bytes that are `missing`, `unpacked`, `free` (with what would
        be collected) and of the whole `disk`; `collected`: bytes that would be.

    Raises:
        VerificationError, EdgekitError: as `offer`.
    """
    wanted = for_this_device(verified.manifest)
    claimable(root)
    missing = _missing(root, wanted)
    named = [verified.digest, *(each.digest for each in wanted)]
    needs = _needs_room(root, verified.digest, missing)
    freed = find(root, verified.digest, named).freed if needs else 0
    room = check_room(root, wanted, missing, freed, waits=True)
    return {"missing": missing, "room": msgspec.structs.asdict(room), "collected": freed}


def _needs_room(root: Root, release: Digest, missing: list[dict[str, object]]) -> bool:
    """Whether a push brings or unpacks anything: one of what runs whole does not.

    What is garbage is found by a look at every process, a fifth of such a push's time.
    """
    return bool(missing) or root.linked(root.current) != release


def _drop_long_parts(root: Root, wanted: list[Descriptor]) -> None:
    for descriptor in wanted:
        part = root.store.part_path(descriptor.digest)
        if part.exists() and part.stat().st_size > descriptor.size:
            part.unlink()


def _missing(root: Root, wanted: list[Descriptor]) -> list[dict[str, object]]:
    """The blobs that are not there whole, each with what an earlier transfer left of it."""
    missing: list[dict[str, object]] = []
    for descriptor in wanted:
        digest = descriptor.digest
        if not root.store.has(digest, descriptor.size):
            part = root.store.part_path(digest)
            have = part.stat().st_size if part.exists() else 0
            have = 0 if have > descriptor.size else have
            missing.append({"digest": digest, "size": descriptor.size, "have": have})
    return missing


def for_this_device(manifest: Manifest) -> list[Descriptor]:
    """The bundle config and the layers that this machine needs."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    return manifest.for_device(oci_platform(platform.machine()), minor)


def stage(root: Root, digest: Digest) -> Path:
    """Stage a release that was offered before, if the metadata that is kept still permits it.

    Raises:
        VerificationError: as `publish_release`; or the metadata does not vouch for the release.
    """
    return publish_release(root, permitted(root, digest))


def publish_release(root: Root, verified: VerifiedManifest, *, again: bool = False) -> Path:
    """Hash every blob in the store, then publish the release folder by rename.

    Args:
        root: the device's folder.
        verified: the release.
        again: it runs already: blobs that nobody wrote to since they were hashed stay unread.

    Raises:
        VerificationError: a blob is missing or corrupt, or the golden prompts make no sense;
            corrupt blobs are removed, and the next push sends them again.
        UnfitError: this device cannot run the release's libraries.
    """
    store, digest = root.store, verified.digest
    problems = []
    wanted = for_this_device(verified.manifest)
    hashed = Hashed(root, [descriptor.digest for descriptor in wanted])
    for descriptor in wanted:
        blob = descriptor.digest
        try:
            if store.path(blob).is_symlink():
                raise VerificationError(f"blob {blob.short} is a symbolic link")
            if not (again and hashed.knows(blob)):
                store.verify(blob)
        except VerificationError as error:
            store.remove(blob)
            problems.append(error)
        else:
            if not store.has(blob, descriptor.size):
                raise VerificationError(
                    f"blob {blob.short} has a different size than the manifest says"
                )
    if problems:
        raise problems[0]
    hashed.all_hashed()
    config = parse_config(store.read(verified.manifest.config.digest))
    check_golden(store, verified.manifest, config)
    target = root.release(digest)
    if target.exists():
        _relink(root, verified.manifest, target)
    else:
        _assemble(root, verified.manifest, target)
    hashed.remember()
    Counters(root.path).stage(digest, verified.signed.counter)
    Releases(root.path).stage(digest, config.name, config.version)
    return target


def _assemble(root: Root, manifest: Manifest, target: Path) -> None:
    import shutil  # noqa: PLC0415  it brings archives, which take long to import

    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model = temporary / layout.MODEL
    model.mkdir(parents=True)
    try:
        for file in manifest.model_files:
            # A hard link: onnxruntime refuses external data behind a symbolic link.
            os.link(root.store.path(file.digest), model / file.title)
        runtime = next(d for d in for_this_device(manifest) if d in manifest.runtimes)
        for name, layer in ((layout.AGENT, manifest.agent), (layout.RUNTIME, runtime)):
            unpack_once(root, layer)
            (temporary / name).symlink_to(Path("../..") / layout.tree(layer.digest))
        os.link(root.store.path(manifest.config.digest), temporary / layout.BUNDLE_CONFIG)
        for blob, name in golden_links(root.store, manifest):
            os.link(blob, temporary / name)
        sync_file_system(temporary)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(target.parent)
    _share_compiled(root, target)


def _share_compiled(root: Root, release: Path) -> None:
    """Let Python find the modules that it compiled for another release with the same trees.

    It looks for them by the path of the release. What it cannot find it compiles, during the trial.
    """
    with suppress(OSError):
        if not root.compiled.is_dir():  # nothing was compiled yet
            return
        for name in (layout.AGENT, layout.RUNTIME):
            link = root.compiled / layout.RELEASES / release.name / name
            link.parent.mkdir(parents=True, exist_ok=True)
            tree = (release / name).readlink()
            (link.parent / tree).mkdir(parents=True, exist_ok=True)
            link.symlink_to(tree)


def linked_files(root: Root, manifest: Manifest, release: Path) -> list[tuple[Path, Path]]:
    """(blob, place) of every file of a release that is a hard link to a blob."""
    links = [(file, release / layout.MODEL / file.title) for file in manifest.model_files]
    links.append((manifest.config, release / layout.BUNDLE_CONFIG))
    found = [(root.store.path(file.digest), place) for file, place in links]
    golden = golden_links(root.store, manifest)
    return found + [(blob, release / name) for blob, name in golden]


def _relink(root: Root, manifest: Manifest, release: Path) -> None:
    """Make a staged release whole again, after a push replaced some of its blobs.

    Each file is replaced by rename: a running model keeps the files that it has mapped.
    """
    mended = False
    for blob, place in linked_files(root, manifest, release):
        if not place.exists() or not place.samefile(blob):
            replace_file_by_link(place, blob)
            mended = True
    for layer in for_this_device(manifest):
        if layer.media_type in (AGENT_TYPE, RUNTIME_TYPE):
            mended = unpack_once(root, layer) or mended
    if mended and root.linked(root.current) == Digest.from_hex(release.name):
        root.mended_file.touch()

"""A push of what runs already reads the blobs that something has written to, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.stage import offer, publish_release
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import VerificationError
from edgekit.store import BlobStore
from edgekit.trust.verified import VerifiedManifest
from tests.trusted import vouched
from tests.unit.test_release_stage import WEIGHTS, damage, fill, release


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "root")
    root.create()
    fill(root)
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[Digest]:
    """The blobs that were hashed."""
    found: set[Digest] = set()
    verify = BlobStore.verify

    def noting(store: BlobStore, digest: Digest) -> None:
        found.add(digest)
        verify(store, digest)

    monkeypatch.setattr(BlobStore, "verify", noting)
    return found


def staged(root: Root) -> VerifiedManifest:
    verified = vouched(root, release())
    offer(root, verified)
    publish_release(root, verified)
    return verified


def test_blobs_that_nobody_wrote_to_are_not_read_again(root: Root, read: set[Digest]) -> None:
    verified = staged(root)
    assert Digest.of(WEIGHTS) in read
    read.clear()
    publish_release(root, verified, again=True)
    assert not read
    publish_release(root, verified)  # a staging hashes all
    assert Digest.of(WEIGHTS) in read


@pytest.mark.parametrize("how", ["written", "with its old time", "replaced", "without the record"])
def test_a_blob_that_was_changed_is_read(root: Root, read: set[Digest], how: str) -> None:
    verified, path = staged(root), root.store.path(Digest.of(WEIGHTS))
    read.clear()
    times = path.stat()
    match how:
        case "replaced":
            path.unlink()
            path.write_bytes(WEIGHTS[:-1] + b"\0")
        case "without the record":
            (root.path / layout.HASHED_FILE).write_bytes(b'{"\xff')
        case _:
            damage(path)
    if how == "with its old time":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if how == "without the record":
        publish_release(root, verified, again=True)
    else:
        with pytest.raises(VerificationError):
            publish_release(root, verified, again=True)
    assert Digest.of(WEIGHTS) in read


def test_what_was_found_damaged_is_not_remembered_as_whole(root: Root, read: set[Digest]) -> None:
    verified = staged(root)
    damage(root.store.path(Digest.of(WEIGHTS)))
    with pytest.raises(VerificationError):
        publish_release(root, verified, again=True)
    fill(root)
    read.clear()
    publish_release(root, verified, again=True)
    assert read == {Digest.of(WEIGHTS)}
    read.clear()
    publish_release(root, verified, again=True)
    assert not read


def test_a_blob_that_was_written_to_while_it_was_hashed_is_read_again(
    root: Root, read: set[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `rsync --inplace --times` does it."""
    verified, path = vouched(root, release()), root.store.path(Digest.of(WEIGHTS))
    offer(root, verified)
    verify = BlobStore.verify

    def written_to(store: BlobStore, digest: Digest) -> None:
        verify(store, digest)
        if digest == Digest.of(WEIGHTS):
            times = path.stat()
            damage(path)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    monkeypatch.setattr(BlobStore, "verify", written_to)
    publish_release(root, verified)
    monkeypatch.setattr(BlobStore, "verify", verify)
    with pytest.raises(VerificationError):
        publish_release(root, verified, again=True)

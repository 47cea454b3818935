"""Staging on a device: offers, adopted blobs, repaired releases, one push at a time."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release import holder, lease
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.offered import foresee_offer, take_offer
from edgekit.agent.release.staging.stage import foresee, offer, publish_release, stage
from edgekit.agent.release.staging.trees import fingerprint
from edgekit.agent.release.state import Releases
from edgekit.bundle.tar import compress, plain_tar
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseAnswer, LeaseWish
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    TITLE,
    WEIGHT_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
    oci_platform,
)
from edgekit.errors import EdgekitError, VerificationError
from edgekit.trust.pinned import PinnedManifest, pin
from edgekit.trust.signed import Offered
from tests.trusted import offer_bytes, vouched

WEIGHTS = b"w" * 5000
CONFIG = encode(BundleConfig("tiny", "1", "llama", "", 16, 1, 16, Fit(0, 0)))
TREE = b"".join(compress(plain_tar([("edgekit/__init__.py", b"")])))


def release(weights_size: int = len(WEIGHTS), config: bytes = CONFIG) -> PinnedManifest:
    here = oci_platform(platform.machine())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    manifest = Manifest(
        2,
        MANIFEST_TYPE,
        BUNDLE_TYPE,
        Descriptor(CONFIG_TYPE, Digest.of(config), len(config)),
        [
            Descriptor(WEIGHT_TYPE, Digest.of(WEIGHTS), weights_size, {TITLE: "model.data"}),
            Descriptor(AGENT_TYPE, Digest.of(TREE), len(TREE)),
            Descriptor(RUNTIME_TYPE, Digest.of(TREE), len(TREE), {PLATFORM: here, PYTHON: python}),
        ],
    )
    data = encode(manifest)
    return pin(data, Digest.of(data))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "root")
    root.create()
    return root


def fill(root: Root) -> None:
    for data in (WEIGHTS, CONFIG, TREE):
        root.store.put(data)


def damage(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def test_an_offer_names_what_is_missing_and_what_a_part_already_has(root: Root) -> None:
    root.store.put(CONFIG)
    root.store.part_path(Digest.of(WEIGHTS)).write_bytes(WEIGHTS[:1234])
    answer = offer(root, vouched(root, release()))
    assert answer["missing"] == [
        {"digest": Digest.of(WEIGHTS), "size": 5000, "have": 1234},
        {"digest": Digest.of(TREE), "size": len(TREE), "have": 0},
        {"digest": Digest.of(TREE), "size": len(TREE), "have": 0},
    ]


def test_garbage_goes_where_a_push_needs_room_and_stays_where_the_release_runs_already(
    root: Root,
) -> None:
    pinned = release()
    verified = vouched(root, pinned)
    fill(root)
    garbage = root.store.put(b"garbage" * 5000)
    assert foresee(root, verified)["collected"] != 0
    offer(root, verified)
    assert not root.store.has(garbage)  # nothing is missing, but the release is not unpacked

    root.current.symlink_to(stage(root, pinned.digest))
    root.store.put(b"garbage" * 5000)
    assert foresee(root, verified)["collected"] == 0
    assert offer(root, verified)["missing"] == []
    assert root.store.has(garbage)


def test_a_release_that_does_not_fit_on_the_disk_is_refused_and_nothing_changes(root: Root) -> None:
    pinned = release(1 << 50)
    verified = vouched(root, pinned)
    with pytest.raises(EdgekitError) as caught:
        offer(root, verified)
    assert "disk of the device is too small" in caught.value.what
    assert "1,125,899,9" in caught.value.why
    assert "nothing was changed" in caught.value.next_step
    assert not root.store.has(pinned.digest)
    assert not list(root.store.folder.iterdir())


def test_every_corrupt_blob_is_dropped_at_once_so_that_one_more_round_repairs(root: Root) -> None:
    fill(root)
    pinned = release()
    offer(root, vouched(root, pinned))
    damage(root.store.path(Digest.of(WEIGHTS)))
    damage(root.store.path(Digest.of(CONFIG)))
    with pytest.raises(VerificationError, match="corrupt"):
        stage(root, pinned.digest)
    assert not root.release(pinned.digest).exists()
    missing = offer(root, vouched(root, pinned))["missing"]
    assert isinstance(missing, list)
    assert {m["digest"] for m in missing} == {Digest.of(WEIGHTS), Digest.of(CONFIG)}


def test_a_staged_release_gets_the_repaired_blob_and_a_reader_keeps_the_old(root: Root) -> None:
    fill(root)
    pinned = release()
    offer(root, vouched(root, pinned))
    file = stage(root, pinned.digest) / "model" / "model.data"
    damage(file)
    with file.open("rb") as reader:
        with pytest.raises(VerificationError):
            stage(root, pinned.digest)
        fill(root)
        stage(root, pinned.digest)
        assert file.read_bytes() == WEIGHTS
        assert len(reader.read()) == len(WEIGHTS)
    assert [path.name for path in file.parent.iterdir()] == ["model.data"]


def test_a_part_is_adopted_once_and_again_without_harm(root: Root) -> None:
    digest = Digest.of(WEIGHTS)
    root.store.part_path(digest).write_bytes(WEIGHTS)
    for _ in range(2):
        root.store.adopt(digest, len(WEIGHTS))
    assert root.store.read(digest) == WEIGHTS


def test_a_part_that_is_short_stays_and_one_that_is_wrong_goes(root: Root) -> None:
    digest = Digest.of(WEIGHTS)
    part = root.store.part_path(digest)
    part.write_bytes(WEIGHTS[:10])
    with pytest.raises(EdgekitError, match="incomplete"):
        root.store.adopt(digest, len(WEIGHTS))
    assert part.exists()
    part.write_bytes(bytes(len(WEIGHTS)))
    with pytest.raises(VerificationError):
        root.store.adopt(digest, len(WEIGHTS))
    assert not part.exists()
    assert not root.store.has(digest)


def test_putting_a_blob_again_repairs_a_damaged_one(root: Root) -> None:
    digest = root.store.put(WEIGHTS)
    damage(root.store.path(digest))
    root.store.put(WEIGHTS)
    assert root.store.read(digest) == WEIGHTS


def hold(root: Root) -> subprocess.Popen[str]:
    """Another process takes the lease through a child of its own, as a push does, and lives on."""
    claim = (
        "from pathlib import Path; from edgekit.agent.release import lease, root;"
        f"lease.claim(root.Root(Path({str(root.path)!r})))"
    )
    script = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {claim!r}], check=True);"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_lease_of_a_push_ends_with_its_process(root: Root) -> None:
    holder = hold(root)
    with pytest.raises(EdgekitError, match="another push"):
        lease.claim(root)
    holder.kill()
    holder.communicate(timeout=10)
    lease.claim(root)
    lease.claim(root)
    lease.release(root)
    assert not root.lease_file.exists()


def test_a_push_from_which_nothing_arrives_any_more_loses_its_lease(root: Root) -> None:
    holder = hold(root)
    part = root.store.part_path(Digest.of(WEIGHTS))
    part.touch()
    os.utime(root.lease_file, (0, 0))
    with pytest.raises(EdgekitError, match="another push"):
        lease.claim(root)
    os.utime(part, (0, 0))
    lease.claim(root)
    holder.communicate(timeout=10)


def contents(root: Root) -> dict[str, object]:
    """Everything below ROOT: kind, bytes, and when it was written."""
    return {
        str(path.relative_to(root.path)): (path.lstat().st_mtime_ns, path.is_file())
        + ((path.read_bytes(),) if path.is_file() else ())
        for path in sorted(root.path.rglob("*"))
    }


def test_a_dry_offer_answers_as_the_offer_and_changes_nothing(root: Root) -> None:
    pinned = release()
    root.store.put(CONFIG)
    part = root.store.part_path(Digest.of(WEIGHTS))
    part.write_bytes(WEIGHTS[:1000])
    root.store.part_path(Digest.of(TREE)).write_bytes(TREE + b"too long")
    root.store.put(b"garbage" * 5000)
    verified = vouched(root, pinned)
    before = contents(root)
    told = foresee(root, verified)
    assert contents(root) == before
    missing = told["missing"]
    assert missing == [
        {"digest": Digest.of(WEIGHTS), "size": len(WEIGHTS), "have": 1000},
        *[{"digest": Digest.of(TREE), "size": len(TREE), "have": 0}] * 2,
    ]
    assert int(str(told["collected"])) >= 35_000
    room = told["room"]
    assert isinstance(room, dict)
    # the agent and the runtime are one blob here: it comes once
    assert room["missing"] == len(WEIGHTS) - 1000 + len(TREE)
    assert room["free"] < room["disk"]
    assert offer(root, verified)["missing"] == missing
    assert not root.store.part_path(Digest.of(TREE)).exists()


def test_a_dry_offer_refuses_what_the_offer_refuses(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = vouched(root, release(weights_size=1 << 60))
    before = contents(root)
    said = []
    for ask in (foresee, offer):
        with pytest.raises(EdgekitError, match="too small") as raised:
            ask(root, verified)
        said.append(raised.value.why.partition(",")[0])
        if ask is foresee:
            assert contents(root) == before
    assert said[0] == said[1]


def test_an_offer_takes_the_lease_keeps_it_from_others_and_a_dry_one_says_who_has_it(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = release()
    ada, bob = (LeaseWish(name * 4, f"{name}@desk", "rollout-7") for name in ("ada0", "b0b0"))

    def told(wish: LeaseWish | None) -> Offered:
        offered = msgspec.json.decode(offer_bytes(pinned), type=Offered)
        return msgspec.structs.replace(offered, lease=wish)

    answer = take_offer(root, pinned.digest, told(ada))
    assert answer["missing"]
    assert msgspec.convert(answer["lease"], LeaseAnswer).taken
    monkeypatch.setattr(lease, "session", lambda: "another 1")
    answer = take_offer(root, pinned.digest, told(bob))
    assert answer["missing"] == []
    refused = msgspec.convert(answer["lease"], LeaseAnswer)
    assert not refused.taken
    assert str(refused.lease) == "ada0@desk (rollout-7)"
    with pytest.raises(EdgekitError, match=r"ada0@desk \(rollout-7\) holds this device"):
        take_offer(root, pinned.digest, told(None))  # of a controller from before leases
    before = contents(root)
    dry = foresee_offer(root, pinned.digest, told(bob))
    assert "ada0@desk (rollout-7) holds this device" in str(dry["warnings"])
    assert contents(root) == before


def test_a_device_keeps_the_head_of_the_journal_of_a_rollout_whose_offer_it_accepts(
    root: Root,
) -> None:
    pinned, other = release(), release(weights_size=1 << 60)
    for one, head in ((pinned, "ab" * 32), (other, "cd" * 32)):
        wish = LeaseWish("ada0" * 4, "ada@desk", "rollout-7", head=head)
        offered = msgspec.json.decode(offer_bytes(one), type=Offered)
        with suppress(EdgekitError):  # the other is too large
            take_offer(root, one.digest, msgspec.structs.replace(offered, lease=wish))
    (kept,) = Releases(root.path).heads()
    del kept["at"]
    assert kept == {
        "digest": pinned.digest,
        "project": "ada0" * 4,
        "operator": "ada@desk",
        "rollout": "rollout-7",
        "head": "ab" * 32,
    }


def test_an_offer_that_is_refused_keeps_no_lease(root: Root) -> None:
    pinned = release(weights_size=1 << 60)
    offered = msgspec.json.decode(offer_bytes(pinned), type=Offered)
    wish = LeaseWish("ada0" * 4, "ada@desk", "rollout-7")
    with pytest.raises(EdgekitError, match="too small"):
        take_offer(root, pinned.digest, msgspec.structs.replace(offered, lease=wish))
    assert holder.held(root) is None


def test_a_dry_offer_is_refused_while_another_push_is_at_work(root: Root) -> None:
    verified = vouched(root, release())
    other = subprocess.Popen(["sleep", "60"])
    try:
        root.lease_file.write_text(lease._identity(other.pid))
        with pytest.raises(EdgekitError, match="another push"):
            foresee(root, verified)
    finally:
        other.kill()
        other.wait()


def test_what_python_compiled_for_a_release_serves_the_next_with_the_same_trees(root: Root) -> None:
    """A device is slow at it, and it would be done during the trial."""
    fill(root)
    config = encode(BundleConfig("tiny", "2", "llama", "", 16, 1, 16, Fit(0, 0)))
    root.store.put(config)
    root.compiled.mkdir(parents=True)  # as after the first process of a device
    for pinned in (release(), release(config=config)):
        folder = publish_release(root, vouched(root, pinned))
        subprocess.run(
            [sys.executable, "-S", "-P", "-c", "import edgekit"],
            env=root.environment(folder),
            check=True,
        )
    compiled = [path for path in root.compiled.rglob("*.pyc") if path.is_file()]
    assert [path.parents[1].parent.name for path in compiled] == ["trees"]
    found = root.compiled / layout.RELEASES / folder.name / layout.AGENT / "edgekit"
    assert compiled[0].samefile(found / compiled[0].name)


def walked(tree: Path) -> str:
    """The fingerprint as agents of before wrote it into `run/trees.json`."""
    seen = hashlib.sha256()
    for folder, folders, files in os.walk(tree):
        folders.sort()
        for name in sorted((*folders, *files)):
            at = (place := Path(folder, name)).lstat()
            told = (str(place), at.st_mode, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)
            seen.update(repr(told).encode())
    return seen.hexdigest()


def test_a_fingerprint_is_that_of_agents_of_before(tmp_path: Path) -> None:
    """With another one each device would hash its trees again at its next update."""
    for name in ("b/a/1", "b/a.py", "b-c/2", "b/ü", "a", "B/x/y/z", "c.d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "b" / "to folder").symlink_to(tmp_path / "B")
    (tmp_path / "to nothing").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(".")
    before = fingerprint(tmp_path)
    assert before == walked(tmp_path)
    (tmp_path / "B" / "x" / "y" / "z").write_text("Z")
    assert fingerprint(tmp_path) == walked(tmp_path) != before
    assert fingerprint(tmp_path / "no tree") == walked(tmp_path / "no tree")

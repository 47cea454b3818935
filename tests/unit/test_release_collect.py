"""What a device keeps and what it collects: releases, trees, blobs, parts and leftovers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.space import collect as collecting
from edgekit.agent.release.space.collect import collect, find, give_up_previous, pin
from edgekit.agent.release.space.retention import ReleaseFolder, Survey, garbage
from edgekit.agent.release.space.survey import mapped_inodes
from edgekit.agent.release.staging.stage import offer, publish_release
from edgekit.agent.release.state import HISTORY, Releases
from edgekit.core.digest import Digest
from edgekit.core.manifest import UNPACKED
from edgekit.core.release import ReleaseEvent
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.store import replace_link
from tests.harness.held import activated, bundle, staged, tree, weights_of
from tests.trusted import vouched


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    for name in ("sync", "fsync"):  # they wait for the writes of every other process
        monkeypatch.setattr(os, name, lambda *_: None)
    root = Root(tmp_path / "root")
    root.create()
    return root


def used(root: Root) -> int:
    """Bytes that a ROOT takes, each file once."""
    seen = {}
    for folder, inner, names in os.walk(root.path):
        links = [name for name in inner if Path(folder, name).is_symlink()]
        for name in (*names, *links):  # a link of more than 59 letters takes a block on ext4
            stat = os.lstat(Path(folder, name))
            seen[stat.st_ino] = stat.st_blocks * 512
    return sum(seen.values())


def held(root: Root) -> set[Digest]:
    return {Digest.from_hex(path.name) for path in (root.path / "releases").glob("[!.]*")}


def whole(root: Root, digest: Digest) -> None:
    """Everything of a release is there and is what it was."""
    assert root.release(digest).is_dir()
    publish_release(root, vouched(root, root.store.read(digest)))
    assert (root.release(digest) / "agent" / "own.py").is_file()
    assert (root.release(digest) / "runtime" / "runtime" / "core.py").is_file()


def test_of_seven_releases_current_and_previous_stay_and_the_disk_gets_its_bytes(
    root: Root,
) -> None:
    seven = [activated(root, str(number)) for number in range(7)]
    before = used(root)
    told = find(root)
    assert used(root) == before
    done = collect(root)
    assert done.pieces == told.pieces
    assert held(root) == {seven[-1], seven[-2]}
    assert done.kept == {seven[-1]: "current", seven[-2]: "previous"}
    assert done.freed == before - used(root) > 5 * 300_000
    for digest in seven[-2:]:
        whole(root, digest)
    assert len(list(root.store.folder.iterdir())) == 2 * 4 + 1  # they share the runtime
    assert len(list(root.trees.iterdir())) == 3
    assert collect(root).pieces == []


def test_pinned_staged_trial_older_and_later_states_stay_and_the_rest_goes(root: Root) -> None:
    releases = Releases(root.path)
    old, pinned, older, previous, current = (activated(root, str(n)) for n in range(5))
    replace_link(root.path / "older", f"releases/{older.hex}")
    pin(root, pinned.hex[:8], True)
    first, second = staged(root, "first"), staged(root, "second")
    trial = staged(root, "trial")
    releases.move(trial, ReleaseEvent.ACTIVATE)
    bad = staged(root, "bad")
    releases.move(bad, ReleaseEvent.ACTIVATE)
    releases.move(bad, ReleaseEvent.FAILED, "it ended")
    later = staged(root, "later")
    with releases._open() as db:
        db.execute("UPDATE releases SET state = 'paused' WHERE digest = ?", (later,))
    assert collect(root).kept == {
        current: "current",
        previous: "previous",
        older: "older",
        trial: "trial",
        second: "staged",
        pinned: "pinned",
        later: "paused",
    }
    assert not held(root) & {old, first, bad}
    assert releases.get(bad) is not None, "the history says why it failed"
    pin(root, pinned.short, False)
    collect(root)
    assert pinned not in held(root)


def test_the_history_of_what_was_collected_is_bounded(root: Root) -> None:
    releases = Releases(root.path)
    for number in range(HISTORY + 10):
        releases.stage(Digest.of(b"%d" % number), "gone", "1")
    current = activated(root, "current")
    collect(root)
    rows = [row.digest for row in releases.all()]
    assert current in rows
    assert len(rows) == HISTORY + 1
    assert Digest.of(b"0") not in rows
    assert Digest.of(b"%d" % (HISTORY + 9)) in rows


def test_leftovers_of_kills_go_and_what_may_be_at_work_stays(root: Root) -> None:
    current = activated(root, "current")
    gone = "ab" * 32
    leftovers = [
        f"releases/.{gone}.tmp/model/x",
        f"releases/.{gone}.gone.tmp/model/x",
        f"trees/.{gone}.tmp/numpy/x",
        f"blobs/sha256/.{gone}.77.tmp",
        "blobs/sha256/.incoming.77.tmp",
        f"blobs/sha256/{gone}.part",
        "etc/.agent.toml.77.tmp",
        ".tuning.json.77.tmp",
        "bootstrap-0123456789ab/edgekit/x",
        ".bootstrap-0123456789ab.77.tmp/edgekit/x",
        ".bootstrap-0123456789ab.part",
        f"run/pycache/{root.path.relative_to('/')}/releases/{gone}/agent/x.pyc",
        f"run/pycache/{root.path.relative_to('/')}/trees/{gone}/x.pyc",
        "log/agent.log.2",
    ]
    kept = [
        "bootstrap-aaaaaaaaaaaa/edgekit/x",
        ".bootstrap-bbbbbbbbbbbb.part",
        f"run/pycache/{root.path.relative_to('/')}/releases/{current.hex}/agent/x.pyc",
        "log/agent.log.1",
        "releases/notes/x",
        "trees/mine/x",
        "blobs/sha256/README",
    ]
    for name in (*leftovers, *kept):
        path = root.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
    (root.path / "bootstrap").symlink_to("bootstrap-aaaaaaaaaaaa")
    for path in (*root.path.glob("*bootstrap-0*"), *root.path.rglob(".*.77.tmp")):
        os.utime(path, (0, 0))
    os.utime(root.path / "bootstrap-aaaaaaaaaaaa", (0, 0))
    done = collect(root)
    assert not [name for name in leftovers if (root.path / name).exists()]
    assert not [name for name in kept if not (root.path / name).exists()]
    assert done.freed == len(leftovers) * 8192
    whole(root, current)


def test_an_offer_collects_and_keeps_what_it_needs(root: Root) -> None:
    for number in range(4):
        activated(root, str(number))
    new, blobs = bundle("new", weights_of("new"), tree(own="1"), tree(runtime__core="shared = 1"))
    root.store.part_path(Digest.of(weights_of("new"))).write_bytes(b"new")
    root.store.part_path(Digest.of(b"another bundle")).write_bytes(b"another")
    root.store.put(blobs[2])  # a push that broke off has sent this one
    answer = offer(root, vouched(root, new))
    assert answer["missing"] == [
        {"digest": Digest.of(blobs[0]), "size": len(blobs[0]), "have": 0},
        {"digest": Digest.of(blobs[1]), "size": len(blobs[1]), "have": 3},
    ]
    assert len(held(root)) == 2
    assert [path.name for path in root.store.folder.glob("*.part")] == [
        f"{Digest.of(blobs[1]).hex}.part"
    ]


def test_a_kept_release_without_its_manifest_loses_nothing_that_it_uses(root: Root) -> None:
    current = activated(root, "current")
    root.store.path(current).unlink()
    model = root.release(current) / "model" / "model.data"
    collect(root)
    assert model.stat().st_nlink == 2
    assert (root.release(current) / "agent" / "own.py").is_file()
    assert len(list(root.trees.iterdir())) == 2


MAPS = (
    "import mmap, sys\n"
    "files = [open(name, 'rb') for name in sys.argv[1:]]\n"
    "maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]\n"
    "print(len(maps), flush=True); sys.stdin.read()"
)


@contextmanager
def running(*files: Path, **environment: str) -> Iterator[None]:
    """A process that has these files mapped."""
    with subprocess.Popen(
        [sys.executable, "-c", MAPS, *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(b"", timeout=10)


def test_a_release_from_which_a_process_runs_stays_and_its_bytes_are_not_counted(
    root: Root,
) -> None:
    old, supervised, _, _ = (activated(root, str(number)) for number in range(4))
    file = root.release(old) / "model" / "model.data"
    trees = root.release(supervised) / "agent"
    with running(file), running(PYTHONPATH=str(trees)):
        kept = collect(root).kept
        assert (kept[old], kept[supervised]) == ("in use", "in use")
        file.unlink()
        blob = root.store.path(Digest.of(weights_of("0")))
        counted = collecting._weighed([("blob", blob)], mapped_inodes(root.path))
        assert counted[0].freed == 0, "a reader of its last name still holds the blocks"
    collect(root)
    assert not held(root) & {old, supervised}


def test_what_a_running_release_shares_with_older_ones_keeps_none_of_them(root: Root) -> None:
    old, _, current = (activated(root, str(number)) for number in range(3))
    shared = root.release(current) / "runtime" / "runtime" / "core.py"
    model = root.release(current) / "model" / "model.data"
    theirs = root.release(old) / "model" / "model.data"
    theirs.unlink()
    os.link(model, theirs)  # as if both had the same weights
    with running(shared, model):
        done = collect(root)
    assert old not in held(root)
    assert done.freed > 300_000, "its own blob"
    assert model.stat().st_nlink == 2
    whole(root, current)


def test_a_collection_that_is_killed_at_any_step_leaves_whole_releases(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KillError(BaseException):
        """As a SIGKILL would come."""

    left = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KillError
            return real(*arguments, **more)

        return call

    seven = [activated(root, str(number)) for number in range(7)]
    for owner, name in ((Path, "rename"), (Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    kills = 0
    for allowed in range(100):
        left = allowed % 7
        try:
            collect(root)
            break
        except KillError:
            kills += 1
            left = 10_000
            for digest in held(root) & set(seven):
                whole(root, digest)
    left = 10_000
    assert kills > 5
    assert held(root) == set(seven[-2:])
    assert not list(root.path.rglob("*.tmp"))


def test_what_cannot_be_removed_is_told_and_the_rest_goes(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = (activated(root, str(number)) for number in range(4))
    real = collecting._remove

    def refusing(piece: collecting.Leftover) -> None:
        if piece.path == root.release(first):
            raise PermissionError(1, "Operation not permitted")
        real(piece)

    monkeypatch.setattr(collecting, "_remove", refusing)
    done = collect(root)
    assert done.failed == {f"releases/{first.hex}": "Operation not permitted"}
    assert len(held(root)) == 3


def test_the_way_back_is_given_up_only_when_asked_and_not_during_a_trial(root: Root) -> None:
    previous, current = activated(root, "1"), activated(root, "2")
    Releases(root.path).move(current, ReleaseEvent.ACTIVATE)
    with pytest.raises(EdgekitError, match="may need its previous release"):
        give_up_previous(root)
    Releases(root.path).move(current, ReleaseEvent.ANSWERED)
    assert find(root, without=previous).freed > 300_000
    assert give_up_previous(root) == previous
    collect(root)
    assert held(root) == {current}
    whole(root, current)


@pytest.mark.parametrize("text", ["", "abc", "sha256:", "zzzzzzzz", "f" * 64, "../../etc"])
def test_a_pin_that_names_no_release_is_refused(root: Root, text: str) -> None:
    current = activated(root, "1")
    with pytest.raises(UsageError) as refused:
        pin(root, text, True)
    assert current.short in refused.value.why
    assert not root.pinned_file.exists()


def test_a_damaged_file_of_pins_is_no_reason_to_fail(root: Root) -> None:
    root.pinned_file.write_bytes(b"\xff\x00\nsha256:" + b"a" * 64 + b"\n# mine\n\n")
    activated(root, "1")
    assert collect(root).failed == {}


def test_the_retention_never_lets_a_kept_release_lack_what_it_uses() -> None:
    a, b, c = (Digest.of(each) for each in (b"a", b"b", b"c"))
    folders = {
        a: ReleaseFolder("good", 1, frozenset({"m", "w"}), frozenset({"t"})),
        b: ReleaseFolder("good", 2, frozenset({"w", "x"}), frozenset({"t", "u"})),
        c: ReleaseFolder("trial", 3, frozenset({"y"}), frozenset({"u"}), in_use=True),
    }
    found = garbage(
        Survey(
            folders,
            {"current": c, "previous": a, "older": None},
            blobs=frozenset({"m", "w", "x", "y", "z", a.hex, b.hex, c.hex}),
            trees=frozenset({"t", "u", "v"}),
            parts=frozenset({"w"}),
        )
    )
    assert found.releases == (b,)
    assert found.trees == ("v",)
    assert set(found.blobs) == {"x", "z", b.hex}
    assert found.parts == ("w",)


def test_a_bundle_that_lies_about_its_unpacked_size_is_refused_by_name() -> None:
    for lie in ("-5", "1e9", "many", "", "9" * 30):
        with pytest.raises(VerificationError, match="unpacked size"):
            bundle("1", b"w", tree(own="1"), tree(), **{UNPACKED: lie})

"""Damage at rest: every blob, every file of a tree, every link of a release, bit by bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release import lease
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.stage import offer, stage
from edgekit.agent.release.staging.tree import differences, mend
from edgekit.agent.release.staging.unpack import unpack
from edgekit.agent.release.upkeep import keep as upkeep
from edgekit.agent.release.upkeep import scrub as scrubbing
from edgekit.agent.release.upkeep.found import Scrubbed, is_due, last
from edgekit.agent.release.upkeep.quiet import Throttle, be_quiet, read_past_cache
from edgekit.agent.release.upkeep.schedule import EVERY_SECONDS, FIRST_SECONDS, Upkeep
from edgekit.agent.release.upkeep.scrub import scrub
from edgekit.bundle.tar import compress, plain_tar
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, VerificationError
from tests.harness.held import activated, bundle, tree, weights_of
from tests.trusted import vouched


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    for name in ("sync", "fsync"):  # they wait for the writes of every other process
        monkeypatch.setattr(os, name, lambda *_: None)
    root = Root(tmp_path / "root")
    root.create()
    return root


def flip(path: Path, at: int) -> None:
    """Change one bit of a file, whatever its rights are; the inode stays."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1 << at % 8]))
    path.chmod(mode)


def what(done: Scrubbed) -> list[tuple[str, str, bool]]:
    return [(each.kind, each.digest.short, each.mended) for each in done.found]


def test_a_clean_disk_is_told_as_clean_and_everything_kept_is_read(root: Root) -> None:
    activated(root, "1"), activated(root, "2")
    done = scrub(root, 0)
    assert done.found == []
    assert done.checked == 9 + 2 + 3  # blobs that share a runtime, releases, trees
    assert done.checked_bytes > 2 * 300_000
    assert last(root) == done
    assert done.position == ""


def test_a_flipped_bit_in_any_region_of_any_blob_is_found_and_the_next_push_mends_it(
    root: Root,
) -> None:
    current = activated(root, "1")
    own, shared = tree(own="VERSION = '1'"), tree(runtime__core="shared = 1")
    offered, blobs = bundle("1", weights_of("1"), own, shared)
    assert offered.digest == current
    for data in blobs:
        step = max(1, len(data) // 3)
        for at in {*range(0, len(data), step), len(data) - 1}:
            flip(root.store.path(Digest.of(data)), at)
            done = scrub(root, 0)
            assert ("blob", Digest.of(data).short, False) in what(done)
            assert not root.store.has(Digest.of(data))
            assert root.linked(root.current) == current
            assert (root.release(current) / "model" / "model.data").exists()
            missing = offer(root, vouched(root, offered))["missing"]
            if data != offered.data:  # the offer itself brings the manifest
                assert missing == [{"digest": Digest.of(data), "size": len(data), "have": 0}]
            root.store.put(data)
            stage(root, current)
            root.scrub_file.unlink()
            assert scrub(root, 0).found == []
            root.scrub_file.unlink()
    config = root.release(current) / "bundle.json"
    assert config.samefile(root.store.path(Digest.of(blobs[0]))), "it has the new bytes"


def test_a_damaged_blob_that_a_model_has_mapped_keeps_its_file(root: Root) -> None:
    current = activated(root, "1")
    file = root.release(current) / "model" / "model.data"
    with file.open("rb") as reader:
        inode = os.fstat(reader.fileno()).st_ino
        flip(file, 1000)
        assert not scrub(root, 0).found[0].mended
        assert file.stat().st_ino == inode
        assert file.stat().st_nlink == 1


def damages() -> dict[str, Callable[[Path], object]]:
    """What can happen to the tree of `LAYER`."""

    def linked(tree: Path) -> None:
        (tree / "deep").rename(tree / "other")
        (tree / "deep").symlink_to("other")

    def file_for_folder(tree: Path) -> None:
        shutil.rmtree(tree / "deep")
        (tree / "deep").write_bytes(b"no folder")

    def folder_for_file(tree: Path) -> None:
        (tree / "runtime" / "core.py").unlink()
        (tree / "runtime" / "core.py").mkdir()
        (tree / "runtime" / "core.py" / "x").touch()

    def outside(tree: Path) -> None:
        (tree / "runtime" / "core.py").unlink()
        (tree / "runtime" / "core.py").symlink_to("/etc/hostname")

    return {
        "a bit": lambda tree: flip(tree / "runtime" / "core.py", 3),
        "the last bit": lambda tree: flip(tree / "runtime" / "core.py", 49_999),
        "cut short": lambda tree: os.truncate(tree / "runtime" / "core.py", 40_000),
        "longer": lambda tree: (tree / "deep" / "a" / "b.py").write_bytes(b"b = 1\n# more"),
        "empty": lambda tree: os.truncate(tree / "runtime" / "core.py", 0),
        "missing": lambda tree: (tree / "runtime" / "core.py").unlink(),
        "a folder missing": lambda tree: shutil.rmtree(tree / "deep"),
        "all missing": shutil.rmtree,
        "rights": lambda tree: (tree / "runtime" / "core.py").chmod(0o666),
        "no right to run": lambda tree: (tree / "run.sh").chmod(0o444),
        "a stranger": lambda tree: (tree / "runtime" / "numpy.py").write_text("import os"),
        "a strange folder": lambda tree: (tree / "x" / "y").mkdir(parents=True),
        "a folder that is a link": linked,
        "a file for a folder": file_for_folder,
        "a folder for a file": folder_for_file,
        "a link for a file": outside,
    }


LAYER = b"".join(
    compress(
        plain_tar(
            [
                ("edgekit/__init__.py", b""),
                ("runtime/core.py", bytes(range(250)) * 200),
                ("deep/a/b.py", b"b = 1\n"),
                ("run.sh", b"#!/bin/sh\n"),
            ]
        )
    )
)


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_tree_is_what_its_layer_says_again(damage: str, tmp_path: Path) -> None:
    layer, folder, fresh = tmp_path / "layer", tmp_path / "tree", tmp_path / "fresh"
    layer.write_bytes(LAYER)
    unpack(layer, folder)
    unpack(layer, fresh)
    if damage == "no right to run":
        (folder / "run.sh").chmod(0o555)  # plain_tar gives no such right
    assert differences(layer, folder) == (["run.sh"] if damage == "no right to run" else [])
    if damage != "no right to run":
        damages()[damage](folder)
    wrong = differences(layer, folder)
    assert wrong
    mend(layer, folder, wrong)
    assert differences(layer, folder) == []
    assert listing(folder) == listing(fresh)


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def test_every_region_of_every_tree_of_a_device_is_mended_by_a_scrub_and_by_a_push(
    root: Root,
) -> None:
    current = activated(root, "1")
    whole = {folder: listing(folder) for folder in root.trees.iterdir()}
    for number, (folder, files) in enumerate(whole.items()):
        for name, (_, data) in files.items():
            for at in range(0, len(data), max(1, len(data) // 5)):
                flip(folder / name, at)
                if number % 2:
                    stage(root, current)
                else:
                    root.scrub_file.unlink(missing_ok=True)
                    found = scrub(root, 0).found
                    assert [each.kind for each in found] == ["tree"]
                    assert name in found[0].what
                assert listing(folder) == files


def test_a_process_keeps_the_file_of_a_tree_that_is_mended_under_it(root: Root) -> None:
    current = activated(root, "1")
    file = root.release(current) / "runtime" / "runtime" / "core.py"
    with file.open("rb") as reader:
        flip(file, 2)
        damaged = reader.read()
        scrub(root, 0)
        assert file.read_bytes() != damaged
        reader.seek(0)
        assert reader.read() == damaged


def test_a_tree_whose_layer_is_damaged_too_comes_back_with_the_next_push(root: Root) -> None:
    current = activated(root, "1")
    layer = tree(runtime__core="shared = 1")
    flip(root.release(current) / "runtime" / "runtime" / "core.py", 2)
    flip(root.store.path(Digest.of(layer)), 20)
    assert what(scrub(root, 0)) == [("blob", Digest.of(layer).short, False)]
    root.store.put(layer)
    stage(root, current)
    assert (root.release(current) / "runtime" / "runtime" / "core.py").read_text() == "shared = 1"


def test_a_scrub_that_is_broken_off_goes_on_where_it_was(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    activated(root, "1"), activated(root, "2")
    flip(root.release(root.linked(root.current) or Digest.of(b"")) / "model" / "model.data", 7)
    real, left = scrubbing._check_tree, 1

    def broken_off(*arguments: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(scrubbing, "_check_tree", broken_off)
    with pytest.raises(KeyboardInterrupt):
        scrub(root, 0)
    half = last(root)
    assert half is not None
    assert half.position.startswith("tree ")
    assert half.finished == 0
    left = 10
    done = scrub(root, 0)
    assert left == 8, "the tree that was checked is not checked again"
    assert done.checked == 9 + 2 + 3
    assert [each.kind for each in done.found] == ["blob"]


@pytest.mark.parametrize("text", [b"", b"{", b'{"found": 3}', b"\xff\xfe", b'{"position": 7}'])
def test_a_damaged_position_starts_the_scrub_over(root: Root, text: bytes) -> None:
    activated(root, "1")
    root.scrub_file.write_bytes(text)
    assert last(root) is None
    assert scrub(root, 0).checked == 5 + 1 + 2


def test_two_scrubs_at_once_are_one(root: Root) -> None:
    with scrubbing._alone(root), pytest.raises(EdgekitError, match="scrubbed already"):
        scrub(root, 0)


def test_a_scrub_is_due_once_a_week_by_a_clock_that_may_jump() -> None:
    week, done = 7 * 86_400.0, Scrubbed(started=9e8, finished=1e9)
    assert is_due(None, 1e9)
    assert not is_due(done, 1e9 + week - 1)
    assert is_due(done, 1e9 + week)
    assert is_due(done, 0.0), "1970: the clock was lost"
    assert is_due(msgspec.structs.replace(done, finished=4.1e9), 1.8e9), "2099 was a mistake"


def test_the_pace_is_kept_and_lost_time_is_not_made_up_for() -> None:
    now, slept = 100.0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    pace = Throttle(1000, clock=lambda: now, sleep=sleep)
    for _ in range(10):
        pace(500)
    assert slept == pytest.approx(5.0)
    now += 60.0
    for _ in range(10):
        pace(500)
    assert slept > 9.0
    assert pace.done == 10_000


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_read_past_the_cache_has_every_byte(size: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(size))
    counted = Throttle(0)
    assert b"".join(read_past_cache(file, counted)) == file.read_bytes()
    assert counted.done == size


def test_quiet_work_has_the_lowest_priorities() -> None:
    code = (
        "import os; from edgekit.agent.release.upkeep.quiet import be_quiet; be_quiet();"
        "import ctypes; n = {'x86_64': 252, 'aarch64': 31}[os.uname().machine];"
        "print(os.nice(0), ctypes.CDLL(None).syscall(n, 1, 0) >> 13)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["19", "3"]
    assert callable(be_quiet)


def test_a_verb_waits_for_the_upkeep_and_is_refused_by_any_other_update(root: Root) -> None:
    activated(root, "1")
    held, go_on = threading.Event(), threading.Event()

    def hold(yields: bool) -> None:
        with root.updating(yields=yields):
            held.set()
            go_on.wait(10)

    for yields in (True, False):
        held.clear()
        go_on.clear()
        holder = threading.Thread(target=hold, args=(yields,))
        holder.start()
        held.wait(10)
        if yields:
            threading.Timer(0.3, go_on.set).start()
            with root.updating():
                assert go_on.is_set()
        else:
            with pytest.raises(EdgekitError, match="another update"), root.updating():
                pass
            go_on.set()
        holder.join()


def test_the_upkeep_collects_and_scrubs_what_is_due_and_leaves_a_push_alone(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upkeep, "be_quiet", lambda: None)
    monkeypatch.setattr(upkeep, "BYTES_PER_SECOND", 0)
    for number in range(4):
        activated(root, str(number))
    monkeypatch.setattr(lease, "is_held", lambda _: True)
    assert upkeep.collect_in_steps(root) == 0
    assert len(list((root.path / "releases").iterdir())) == 4
    monkeypatch.setattr(lease, "is_held", lambda _: False)
    upkeep.keep_up(root)
    assert len(list((root.path / "releases").iterdir())) == 2
    assert "collected" in capsys.readouterr().err
    first = last(root)
    assert first is not None
    assert first.finished > 0
    upkeep.keep_up(root)
    assert last(root) == first, "a week has not passed"


def test_the_upkeep_keeps_what_a_push_that_broke_off_has_sent_for_a_week(root: Root) -> None:
    activated(root, "1")
    offered, blobs = bundle("2", weights_of("2"), tree(own="2"), tree(runtime__core="x = 2"))
    offer(root, vouched(root, offered))
    root.store.put(blobs[2])
    part = root.store.part_path(Digest.of(blobs[1]))
    part.write_bytes(b"2222")
    other = root.store.part_path(Digest.of(b"another"))
    other.write_bytes(b"x")
    lease.release(root)
    assert upkeep.collect_in_steps(root) > 0
    assert not other.exists()
    assert part.exists()
    assert root.store.has(Digest.of(blobs[2]))
    os.utime(root.offered_file, (0, 0))
    upkeep.collect_in_steps(root)
    assert not part.exists()
    assert not root.store.has(Digest.of(blobs[2]))
    for text in (b"", b"\xff", b"sha256:1"):
        root.offered_file.write_bytes(text)
        assert upkeep.collect_in_steps(root) == 0


def test_the_supervisor_starts_the_upkeep_when_it_is_time_and_ends_it() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    kept = Upkeep(start, 0.0)
    kept.tick(FIRST_SECONDS - 1)
    assert not started
    kept.tick(FIRST_SECONDS)
    kept.tick(2 * EVERY_SECONDS)
    assert len(started) == 1, "one at a time"
    kept.end()
    assert started[0].returncode is not None
    kept.tick(3 * EVERY_SECONDS)
    assert len(started) == 2
    kept.end()


def test_a_blob_that_cannot_be_read_is_a_finding(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    activated(root, "1")
    real = read_past_cache

    def failing(path: Path, pace: Throttle) -> object:
        if path.name == Digest.of(weights_of("1")).hex:
            raise OSError(5, "Input/output error")
        return real(path, pace)

    monkeypatch.setattr(scrubbing, "read_past_cache", failing)
    done = scrub(root, 0)
    assert done.found[0].what == "it cannot be read: Input/output error"


def test_an_old_ROOT_without_any_record_is_scrubbed_all_the_same(root: Root) -> None:  # noqa: N802  ROOT is a word of ours
    current = activated(root, "1")
    (root.path / "state.db").unlink()
    flip(root.release(current) / "agent" / "own.py", 1)
    assert [each.kind for each in scrub(root, 0).found] == ["tree"]


def test_a_layer_that_holds_a_link_is_refused_by_a_comparison_too(tmp_path: Path) -> None:
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        member = tarfile.TarInfo("x")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    layer = tmp_path / "layer"
    layer.write_bytes(b"".join(compress(data.getvalue())))
    with pytest.raises(VerificationError, match="which is no file"):
        differences(layer, tmp_path / "tree")

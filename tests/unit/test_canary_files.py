"""The canary's files: what lies in a release's folder, and what becomes of ended prompts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.loop.canaryfiles import CanaryFiles, lineage_of
from edgekit.agent.serve.loop.samplestore import MAX_SECONDS, SampleStore
from edgekit.agent.serve.pipe import Cancel, EndedPrompt, Walk, WalkBroken, WalkEnded
from edgekit.agent.serve.session.canary import BASELINE_SECONDS, NO_RELEASE
from edgekit.agent.serve.session.events import Snapshot
from edgekit.core.golden import Golden, GoldenPrompt
from edgekit.core.manifest import encode
from edgekit.core.protocol.payloads import DeviceState
from edgekit.core.protocol.wire import Status
from edgekit.core.quality import Baseline, QualityReport, TopTokens
from tests.harness.session import bundle

IDLE = Snapshot(Status("ready"), True, True, False, 0.0, ())
BUSY = Snapshot(Status("busy"), True, True, True, 0.0, ())
TOP = TopTokens([7, 8], [-0.1, -3.0])


def release(root: Path, name: str, made_from: str = "") -> Path:
    folder = root / "releases" / (name * 64)[:64]
    (folder / "model").mkdir(parents=True)
    (folder / "bundle.json").write_bytes(encode(bundle()))
    (folder / "model" / "tokenizer.json").write_bytes(b"{}")
    prompts = [GoldenPrompt([1, 2, 7], 2, [7], [2.0], [-0.1])]
    (folder / "golden.json").write_bytes(golden_bytes(prompts, made_from))
    return folder


def golden_bytes(prompts: list[GoldenPrompt], made_from: str) -> bytes:
    return msgspec.json.encode(Golden(prompts, made_from=made_from or msgspec.UNSET))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SampleStore]:
    made = SampleStore(tmp_path, 5)
    yield made
    made.remove()


def answered(walk: Walk) -> WalkEnded:
    count = len(walk.tokens) - walk.start
    return WalkEnded(walk.key, [7] * count, [TOP] * count, [7, 2], [TOP] * 2)


def drive(files: CanaryFiles) -> list[Walk]:
    walks = []
    for now in (0.0, BASELINE_SECONDS, *range(100, 110)):
        if (walk := files.tick(IDLE, True, float(now))) is not None:
            assert isinstance(walk, Walk)
            walks.append(walk)
            files.said(answered(walk))
    return walks


def test_a_release_leaves_a_baseline_and_the_next_one_a_score(
    tmp_path: Path, store: SampleStore
) -> None:
    old, new = release(tmp_path, "a"), release(tmp_path, "b")
    first = CanaryFiles(tmp_path, old, None, 5, store)
    first.said(EndedPrompt([3, 4, 7, 7], 2))
    assert len(drive(first)) == 2
    assert first.report is not None
    assert first.report.why == NO_RELEASE
    left = msgspec.json.decode((old / "baseline.json").read_bytes(), type=Baseline)
    assert [sample.tokens for sample in left.samples] == [[1, 2, 7, 2]]
    assert len(store.samples(f"sha256:{old.name}")) == 1
    first.close(successor=True)

    second = CanaryFiles(tmp_path, new, old, 5, store)
    assert store.path.exists()
    drive(second)
    found = msgspec.json.decode((new / "quality.json").read_bytes(), type=QualityReport)
    assert found == second.report
    assert found.against == f"sha256:{old.name}"
    assert found.score is not None
    assert (found.score.prompts, found.score.ended) == (2, 1)
    assert not store.path.exists()
    assert drive(CanaryFiles(tmp_path, new, old, 5, store)) == []  # it is judged once


def test_a_busy_device_forgets_what_waits_for_a_day(tmp_path: Path) -> None:
    times = [1000.0]
    store = SampleStore(tmp_path, 5, clock=lambda: times[-1])
    try:
        files = CanaryFiles(tmp_path, release(tmp_path, "a"), None, 5, store)
        files.said(EndedPrompt([3, 4, 7], 2))
        times.append(1000.0 + MAX_SECONDS + 1)
        files.said(EndedPrompt([3, 5, 7], 2))
        files.tick(BUSY, True, 60.0)
        walks = drive(files)
        assert [walk.tokens for walk in walks if walk.start < len(walk.tokens)] == [[3, 5, 7]]
    finally:
        store.remove()


def test_a_busy_device_and_a_trial_walk_nothing(tmp_path: Path, store: SampleStore) -> None:
    files = CanaryFiles(tmp_path, release(tmp_path, "a"), None, 0, store)
    for now in range(0, 200, 10):
        assert files.tick(BUSY, True, float(now)) is None
        assert files.tick(IDLE, False, float(now)) is None


@pytest.mark.parametrize("state", ["degraded", "draining", "read_only"])
def test_a_walk_ends_when_the_device_degrades_or_drains(
    tmp_path: Path, store: SampleStore, state: DeviceState
) -> None:
    files = CanaryFiles(tmp_path, release(tmp_path, "a"), None, 0, store)
    files.tick(IDLE, True, 0.0)
    walk = files.tick(IDLE, True, BASELINE_SECONDS)
    assert isinstance(walk, Walk)
    other = Snapshot(Status(state), True, True, False, 0.0, ())
    assert files.tick(other, True, 31.0) == Cancel(walk.key)
    files.said(WalkBroken(walk.key))
    assert files.tick(other, True, 100.0) is None
    assert files.tick(IDLE, True, 101.0) is None
    assert files.tick(IDLE, True, 101.0 + BASELINE_SECONDS) == walk


def test_a_stop_removes_ended_prompts_and_a_successor_reads_them(
    tmp_path: Path, store: SampleStore
) -> None:
    folder = release(tmp_path, "a")
    for successor in (True, False):
        files = CanaryFiles(tmp_path, folder, None, 5, store)
        files.said(EndedPrompt([3, 4, 7], 2))
        drive(files)
        files.close(successor=successor)
        assert store.path.exists() is successor


def test_a_device_that_keeps_none_any_more_removes_what_is_there(
    tmp_path: Path, store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = release(tmp_path, "a")
    files = CanaryFiles(tmp_path, folder, None, 5, store)
    files.said(EndedPrompt([3, 4, 7], 2))
    drive(files)
    assert store.path.exists()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", None)  # /dev/shm is everybody's: it is not even opened
        CanaryFiles(tmp_path, folder, None, 0, store)
    assert not store.path.exists()


def test_another_tokenizer_is_another_lineage(tmp_path: Path, store: SampleStore) -> None:
    old, new = release(tmp_path, "a"), release(tmp_path, "b")
    drive(CanaryFiles(tmp_path, old, None, 0, store))
    (new / "model" / "tokenizer.json").write_bytes(b"{ }")
    assert lineage_of(old, None) != lineage_of(new, None)
    files = CanaryFiles(tmp_path, new, old, 0, store)
    drive(files)
    assert files.report is not None
    assert files.report.score is None
    assert "different tokenizers" in files.report.why


@pytest.mark.parametrize(
    ("before", "now", "rebuilt"),
    [("x", "x", True), ("x", "y", False), ("", "", False), ("x", "", False), ("", "x", False)],
)
def test_a_report_says_whether_both_were_made_from_the_same_source_in_the_same_way(
    tmp_path: Path, store: SampleStore, before: str, now: str, rebuilt: bool
) -> None:
    old, new = release(tmp_path, "a", before), release(tmp_path, "b", now)
    drive(CanaryFiles(tmp_path, old, None, 0, store))
    files = CanaryFiles(tmp_path, new, old, 0, store)
    drive(files)
    assert files.report is not None
    assert files.report.score is not None
    assert files.report.rebuilt is rebuilt


def test_a_damaged_baseline_is_none(tmp_path: Path, store: SampleStore) -> None:
    old, new = release(tmp_path, "a"), release(tmp_path, "b")
    (old / "baseline.json").write_bytes(b'{"lineage": 7}')
    files = CanaryFiles(tmp_path, new, old, 0, store)
    drive(files)
    assert files.report is not None
    assert "left no scores" in files.report.why

"""Ended prompts lie in memory alone, 0600, at most 1 MiB and a day, and go with the judgement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.agent.serve.loop.samplestore import (
    MAX_BYTES,
    MAX_SECONDS,
    NoMemoryStoreError,
    SampleStore,
    in_memory,
)
from edgekit.core.quality import Sample, TopTokens

TOP = TopTokens(list(range(1000, 1020)), [-1.234] * 20)


def sample(number: int, positions: int = 1) -> Sample:
    return Sample([number, *([7] * positions)], 1, [TOP] * positions, 3, loops=False, ended=True)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SampleStore]:
    made = SampleStore(tmp_path, 5, clock=Clock())
    yield made
    made.remove()


def test_it_lies_in_memory_for_its_owner_alone(store: SampleStore) -> None:
    store.add("one", sample(1), store.clock())
    assert in_memory(store.path.parent)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.samples("one") == [sample(1)]


def test_a_disk_is_refused_by_name(tmp_path: Path) -> None:
    folder = next(
        (p for p in (tmp_path, Path("/var/lib"), Path("/root")) if not in_memory(p)), None
    )
    assert folder is not None, "every folder here lies in memory"
    with pytest.raises(NoMemoryStoreError, match="not kept for the canary") as refused:
        SampleStore(tmp_path, 5, (folder,))
    assert "do not lie in memory" in refused.value.why
    assert not list(tmp_path.iterdir())


def test_the_last_ones_stay(store: SampleStore) -> None:
    for number in range(8):
        store.add("one", sample(number), store.clock())
    assert [each.tokens[0] for each in store.samples("one")] == [3, 4, 5, 6, 7]


def test_a_mebibyte_is_the_most(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "other", 1000, clock=Clock())
    try:
        for number in range(150):
            store.add("one", sample(number, positions=64), store.clock())
            assert store.path.stat().st_size <= MAX_BYTES
        kept = store.samples("one")
        assert 20 < len(kept) < 150
        assert kept[-1].tokens[0] == 149
    finally:
        store.remove()


def test_a_day_is_the_longest(store: SampleStore) -> None:
    clock = store.clock
    assert isinstance(clock, Clock)
    store.add("one", sample(1), store.clock())
    clock.now += MAX_SECONDS / 2
    store.add("one", sample(2), store.clock())
    clock.now += MAX_SECONDS / 2
    assert store.samples("one") == [sample(2)]
    store.tidy()
    assert b"\x02" in store.path.read_bytes()
    clock.now += MAX_SECONDS
    store.tidy()
    assert not store.path.exists()


def test_another_releases_prompts_are_removed(store: SampleStore) -> None:
    store.add("one", sample(1), store.clock())
    assert store.samples("two") == []
    assert not store.path.exists()


def test_a_file_that_others_can_read_or_a_link_is_not_believed(
    store: SampleStore, tmp_path: Path
) -> None:
    store.add("one", sample(1), store.clock())
    store.path.chmod(0o644)
    assert store.samples("one") == []
    store.path.chmod(0o600)
    assert store.samples("one") == [sample(1)]
    os.link(store.path, f"{store.path}.2")
    try:
        assert store.samples("one") == []
    finally:
        Path(f"{store.path}.2").unlink()
    store.path.unlink()
    store.path.symlink_to(tmp_path)
    with pytest.raises(OSError, match="symbolic link"):
        store.samples("one")


@pytest.mark.timeout(20)
def test_a_fifo_of_its_name_blocks_nothing(store: SampleStore) -> None:
    os.mkfifo(store.path, 0o600)
    assert store.samples("one") == []
    store.tidy()
    store.add("one", sample(1), store.clock())
    assert store.samples("one") == [sample(1)]


def test_what_a_failed_write_leaves_goes(store: SampleStore) -> None:
    store.path.mkdir()  # like a file of another account, it cannot be replaced
    try:
        with pytest.raises(OSError, match=r"\.samples"):
            store._write("one", [])
        assert store.path.with_suffix(".new").exists()
        with suppress(OSError):
            store.tidy()
        assert not store.path.with_suffix(".new").exists()
    finally:
        store.path.rmdir()


def test_a_damaged_file_is_nothing(store: SampleStore) -> None:
    store.add("one", sample(1), store.clock())
    store.path.write_bytes(b"\xc1")
    assert store.samples("one") == []
    store.add("one", sample(2), store.clock())
    assert store.samples("one") == [sample(2)]

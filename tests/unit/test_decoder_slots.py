"""Which slots share a run, and how many slots a device's memory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.serve.decoder.memory import MAX_SLOTS, free_bytes, slots_for
from edgekit.agent.serve.decoder.slots import _runs


def test_neighbours_of_one_kind_share_a_run() -> None:
    assert _runs([], lambda _: True) == []
    assert _runs([0, 1, 2, 3], lambda _: True) == [[0, 1, 2, 3]]
    assert _runs([0, 2, 3, 5], lambda _: True) == [[0], [2, 3], [5]]
    # rows below and above LongRoPE's threshold take different factors, a run has one
    assert _runs([0, 1, 2, 3], lambda slot: slot >= 2) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("slot", "free", "slots"),
    [(1 << 30, 16 << 30, MAX_SLOTS), (1 << 30, 5 << 30, 2), (3 << 30, 4 << 30, 1), (1, 0, 1)],
)
def test_slots_fit_into_half_of_the_free_memory_and_there_is_always_one(
    slot: int, free: int, slots: int
) -> None:
    assert slots_for(slot, free) == slots


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    8000 kB\n")
    assert free_bytes(meminfo, tmp_path / "none") == 8000 << 10
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(meminfo, tmp_path) == 8000 << 10
    (tmp_path / "memory.max").write_text("3000000\n")
    assert free_bytes(meminfo, tmp_path) == 2000000

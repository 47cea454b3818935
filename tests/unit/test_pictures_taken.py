"""How much of pictures a device looks at and keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.serve.worker.decoder import graph
from edgekit.agent.serve.worker.decoder.graph import Decoding, Graph, limits_of
from edgekit.agent.serve.worker.decoder.pictured import FeatureCache
from edgekit.agent.serve.worker.pictures.phi3v import Phi3V, grid_of
from edgekit.agent.serve.worker.pictures.rows import items_of, row_count
from edgekit.agent.serve.worker.pictures.taken import images_taken, kept_rows, within
from edgekit.core.protocol.payloads import ImagesTaken
from edgekit.memory import total_bytes

GB = 10**9
PHI = Phi3V()


def no_text(_: str) -> list[int]:
    raise AssertionError("rows alone stand for a picture of Phi-3.5-vision")


def taken_by(crops: int, per_prompt: int, memory: int) -> ImagesTaken:
    return images_taken(crops, per_prompt, memory, PHI, no_text)


@pytest.mark.parametrize(
    ("crops", "per_prompt", "memory", "taken"),
    [
        (0, 0, 4 * GB, ImagesTaken(1, 313, 1, 2)),
        (0, 0, 8 * GB, ImagesTaken(4, 757, 1, 2)),
        (16, 0, 4 * GB, ImagesTaken(16, 2509, 1, 2, 1344)),  # as an operator said
        (2, 3, 32 * GB, ImagesTaken(2, 313, 3, 3)),
        (6, 0, 32 * GB, ImagesTaken(6, 757, 1, 2)),
    ],
)
def test_the_crops_go_by_the_memory(
    crops: int, per_prompt: int, memory: int, taken: ImagesTaken
) -> None:
    found = taken_by(crops, per_prompt, memory)
    assert found == taken
    assert found.tokens == grid_of(600, 600, found.crops).tokens


def test_a_picture_leaves_half_of_a_slot() -> None:
    taken = taken_by(0, 0, 16 * GB)
    assert within(taken, 4096, PHI, no_text) == taken
    assert within(taken, 1514, PHI, no_text) == taken
    assert within(taken, 1513, PHI, no_text) == taken_by(1, 0, 16 * GB)


@pytest.mark.parametrize("crops", [1, 2, 4, 6, 16])
def test_no_picture_has_more_rows_than_are_counted(crops: int) -> None:
    most = kept_rows(taken_by(crops, 1, GB), 1, 4096, PHI)
    for ratio in np.linspace(1, 8, 200):
        for size in ((1000 * ratio, 1000), (1000, 1000 * ratio)):
            assert grid_of(int(size[0]), int(size[1]), crops).tokens <= most


def test_no_slot_holds_more_rows_than_its_length() -> None:
    assert kept_rows(taken_by(16, 12, GB), 4, 2048, PHI) == 4 * 2048


def test_the_picture_used_longest_ago_makes_room() -> None:
    rows = np.zeros((10, 4), np.float32)
    cache = FeatureCache(3 * rows.nbytes)
    for key in (1, 2, 3):
        cache.keep(key, rows + key)
    assert cache.keeps(1)
    cache.keep(4, rows)
    assert [key for key in (1, 2, 3, 4) if cache.keeps(key)] == [1, 3, 4]
    assert cache.row(items_of(1, 10)[9]).tolist() == [1, 1, 1, 1]
    with pytest.raises(RuntimeError, match="missing"):
        cache.row(items_of(2, 10)[0])


def test_a_slice_with_rows_of_two_pictures_has_both_however_little_is_kept() -> None:
    cache = FeatureCache(0)
    cache.keep(1, np.zeros((10, 4), np.float32))
    cache.keep(2, np.zeros((10, 4), np.float32))
    assert cache.keeps(1)
    assert cache.keeps(2)


def test_what_features_take_is_no_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    made = Graph(tmp_path / "model.onnx", Decoding("model.onnx", 1, 1, 125, {}, {}), 10, 0)
    monkeypatch.setattr(graph, "free_bytes", lambda: 10_000_000)  # a token takes 1,000 bytes
    assert limits_of(made, 1000, 0).slots == 4
    assert limits_of(made, 1000, 0, 6_000_000).slots == 2
    assert limits_of(made, 1000, 0, 9_000_000).max_length == 512


def test_the_memory_of_a_control_group_is_all_a_device_has(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000 kB\nMemFree: 1 kB\n")
    assert total_bytes(meminfo, [tmp_path / "none"]) == 8000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    assert total_bytes(meminfo, [tmp_path]) == 8000 << 10
    (tmp_path / "memory.max").write_text("4096000\n")
    assert total_bytes(meminfo, [tmp_path, tmp_path / "none"]) == 4096000


def test_a_separator_more_for_each_line() -> None:
    assert [row_count(1, 1), row_count(2, 2), row_count(1, 4), row_count(4, 1)] == [
        *(313, 757, 745, 781)
    ]

"""Which slots share a run, and how many slots of which length a device's memory holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.worker.cgroup import control_groups
from edgekit.agent.serve.worker.decoder import graph
from edgekit.agent.serve.worker.decoder.graph import Decoding, Graph, limits_of
from edgekit.agent.serve.worker.decoder.memory import (
    MAX_SLOTS,
    MIN_LENGTH,
    OutOfMemoryError,
    Room,
    room_for,
)
from edgekit.agent.serve.worker.decoder.slots import _runs
from edgekit.memory import free_bytes, memory_groups, total_bytes

TOKEN = 1 << 10  # bytes of keys and values


def test_neighbours_of_one_kind_share_a_run() -> None:
    assert _runs([], lambda _: True) == []
    assert _runs([0, 1, 2, 3], lambda _: True) == [[0, 1, 2, 3]]
    assert _runs([0, 2, 3, 5], lambda _: True) == [[0], [2, 3], [5]]
    # rows below and above LongRoPE's threshold take different factors, a run has one
    assert _runs([0, 1, 2, 3], lambda slot: slot >= 2) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("slot", "free", "slots"),
    [(1 << 30, 16 << 30, MAX_SLOTS), (1 << 30, 5 << 30, 2), (3 << 30, 4 << 30, 1)],
)
def test_slots_fit_into_half_of_the_free_memory_and_one_into_most_of_it(
    slot: int, free: int, slots: int
) -> None:
    assert room_for(slot // 4096, 4096, free) == Room(slots, 4096)
    assert room_for(slot // 4096, 4096, free, slots=3) == Room(3, 4096)  # as configured


@pytest.mark.parametrize(
    ("context", "holds", "length"),
    [
        (8192, 8192, 8192),
        (8192, 8191, 4096),
        (8192, 4095, 2048),
        (8192, 1000, 512),
        (8192, MIN_LENGTH, MIN_LENGTH),
        (1500, 1499, 750),
        (1500, 749, MIN_LENGTH),  # the floor, not 375
        (600, 599, MIN_LENGTH),
        (100, 100, 100),  # a bundle's context below the floor is one
    ],
)
@pytest.mark.parametrize("slots", [0, 1, 3])
def test_one_slot_is_shortened_to_what_the_memory_holds(
    context: int, holds: int, length: int, slots: int
) -> None:
    free = holds * TOKEN * 5 // 4 + 1  # a fifth of it stays spare
    room = room_for(TOKEN, context, free, slots)
    assert room.length == length
    assert room.length * TOKEN <= free * 0.8
    if length < context:
        assert room.slots == 1


@pytest.mark.parametrize(
    ("context", "window", "holds", "length"),
    [
        (8192, 4096, 8192, 8192),
        (8192, 4096, 5000, 4096),
        (512, 4096, 8192, 4096),  # a whole window, however short the context is
        (512, 4096, 4096, 4096),
        (8192, 128, 600, 512),
    ],
)
def test_a_slot_holds_a_whole_window(context: int, window: int, holds: int, length: int) -> None:
    room = room_for(TOKEN, context, holds * TOKEN * 5 // 4 + 1, least=window)
    assert room == Room(1, length)


def test_a_window_without_room_is_named() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        room_for(TOKEN << 10, 512, (4095 << 20) * 5 // 4, least=4096)
    assert "the model's sliding window, 4096 tokens" in caught.value.why


@pytest.mark.parametrize(
    ("told", "window"),
    [
        (None, 0),
        ({"window_size": 4096}, 4096),
        ({"window_size": 4096, "layers": [0, 2]}, 4096),
        ({"window_size": 262144, "layers": []}, 0),  # Phi-3.5-mini: no layer has it
    ],
)
def test_the_window_is_that_of_layers_that_have_one(
    told: dict[str, object] | None, window: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {
        "filename": "model.onnx", "num_hidden_layers": 1, "num_key_value_heads": 1,
        "head_size": 128, "inputs": {}, "outputs": {}, "sliding_window": told,
    }  # fmt: skip
    (tmp_path / "model.onnx").write_bytes(b"graph")
    read = Graph(tmp_path / "model.onnx", msgspec.convert(config, Decoding), 100, 0)
    assert read.window == window
    monkeypatch.setattr(graph, "free_bytes", lambda: 64 << 20)
    limits = limits_of(read, 512, 1)
    assert limits.max_length == 512
    assert limits.can_truncate  # no context of 512 tokens leaves such a window


@pytest.mark.parametrize(("context", "holds"), [(8192, 511), (600, 511), (100, 99), (8192, 0)])
def test_where_the_shortest_has_no_room_it_says_what_why_and_what_to_do(
    context: int, holds: int
) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        room_for(TOKEN << 10, context, (holds << 20) * 5 // 4, slots=1)
    assert "too little free memory" in caught.value.what
    assert f"the shortest context, {min(context, MIN_LENGTH)} tokens" in caught.value.why
    assert caught.value.next_step


def test_the_limits_are_those_of_the_shortened_slot_and_it_is_logged_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.onnx"
    marker = b"\x12\x02x/model/rope_caches_subgraph/Greater/output_0"
    file.write_bytes(b"/model/constants/INT64/1024" + marker)
    model = Graph(file, Decoding("model.onnx", 1, 1, 125, {}, {}), 10, 0)  # 1000 bytes of a token
    monkeypatch.setattr(graph, "free_bytes", lambda: 10_000_000)
    assert limits_of(model, 4096, 0).slots == 1
    assert limits_of(model, 1024, 0).slots == MAX_SLOTS
    assert caplog.messages == []
    monkeypatch.setattr(graph, "free_bytes", lambda: 2_000_000)
    limits = limits_of(model, 4096, 0)
    assert (limits.slots, limits.max_length, limits.rope_threshold) == (1, 1024, None)
    (line,) = caplog.messages
    assert line == (
        "the context is lowered from 4096 to 1024 tokens, in one slot: 2 MB are free, "
        "4096 tokens take 4 MB and 1024 take 1 MB of keys and values"
    )


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    8000 kB\n")
    assert free_bytes(meminfo, [tmp_path / "none"]) == 8000 << 10
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 900000\nfile 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(meminfo, [tmp_path]) == 8000 << 10
    (tmp_path / "memory.max").write_text("3000000\n")
    assert free_bytes(meminfo, [tmp_path]) == 2000000
    # what was read of files is kept as long as nobody wants the memory
    (tmp_path / "memory.stat").write_text("inactive_file 300000\nactive_file 200000\nanon 9\n")
    assert free_bytes(meminfo, [tmp_path, tmp_path / "none"]) == 2500000
    (tmp_path / "memory.current").write_text("4000000\n")  # the limit was lowered
    assert free_bytes(meminfo, [tmp_path]) == 0


def test_the_limit_of_a_control_group_of_version_1_counts(tmp_path: Path) -> None:
    meminfo, own, mounts = (tmp_path / name for name in ("meminfo", "own", "mounts"))
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    own.write_text("4:memory:/docker/x\n0::/\n")
    mounts.write_text(f"35 31 0:32 /docker/x {tmp_path} rw - cgroup cgroup rw,memory\n")
    groups = memory_groups(own, mounts)
    assert groups == [tmp_path]
    (tmp_path / "memory.usage_in_bytes").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("cache 9\ntotal_active_file 1\ninactive_file 7\n")
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (free_bytes(meminfo, groups), total_bytes(meminfo, groups)) == (8000 << 10, 9000 << 10)
    (tmp_path / "memory.limit_in_bytes").write_text("3000000\n")
    assert (free_bytes(meminfo, groups), total_bytes(meminfo, groups)) == (2000001, 3000000)


@pytest.mark.parametrize(
    ("lines", "groups"),
    [
        (
            "0::/system.slice/edgekit.service\n",
            ["system.slice/edgekit.service", "system.slice", ""],
        ),
        ("12:cpu:/old\n0::/a\n", ["a", ""]),
        ("0::/\n", [""]),  # a container
        ("12:cpu:/old\n", [""]),  # version 1
        ("0::/../beside\n", [""]),
        (None, [""]),
    ],
)
def test_the_control_groups_of_a_process_are_its_own_and_those_above(
    lines: str | None, groups: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "cgroup"
    if lines is not None:
        own.write_text(lines)
    root = tmp_path / "mounted"
    assert control_groups(root, own) == [root / group for group in groups]

"""The bandwidth caps of transfers, and how many connections a round trip asks for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgekit.core.digest import Digest
from edgekit.fleet.transfer.cap import BURST_SECONDS, Cap
from edgekit.fleet.transfer.values import WantedBlob, ahead_for, batches, connections_for


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_bytes_leave_at_the_rate_of_the_cap() -> None:
    clock = Clock()
    cap = Cap(8.0, None, clock, clock.sleep)  # 1 MB/s
    for _ in range(100):
        cap.take(50_000)
    assert clock.now - 100 == pytest.approx(5.0, abs=BURST_SECONDS)


def test_a_silence_saves_up_no_more_than_a_burst() -> None:
    clock = Clock()
    cap = Cap(8.0, None, clock, clock.sleep)
    clock.now += 1000
    began = clock.now
    cap.take(1_000_000)
    assert clock.now - began == pytest.approx(1.0 - BURST_SECONDS)


def test_the_narrower_of_two_caps_holds() -> None:
    for ours, all_of_them in ((8.0, 80.0), (80.0, 8.0), (0.0, 8.0), (8.0, 0.0)):
        clock = Clock()
        wide = Cap(all_of_them, None, clock, clock.sleep)
        cap = Cap(ours, wide, clock, clock.sleep)
        for _ in range(10):
            cap.take(100_000)
        assert clock.now - 100 == pytest.approx(1.0, abs=2 * BURST_SECONDS)


def test_no_cap_waits_for_nothing() -> None:
    clock = Clock()
    Cap(0.0, None, clock, clock.sleep).take(10**12)
    assert clock.now == 100


def test_devices_share_the_cap_of_all() -> None:
    waited = []
    lock = threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            waited.append(seconds)

    wide = Cap(8.0, None, lambda: 0.0, sleep)
    threads = [threading.Thread(target=Cap(0.0, wide).take, args=(500_000,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waited) == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_small_blobs_go_together_and_large_ones_alone() -> None:
    def wanted(size: int, have: int = 0) -> WantedBlob:
        return WantedBlob(Digest.of(b"%d" % size), Path("source"), f"{size}.part", size, have)

    tiny, small, rest = wanted(10), wanted(1 << 20), wanted(50 << 20, 49 << 20)
    large, larger = wanted(90 << 20), wanted(1 << 30)
    assert batches([tiny, small, rest, large, larger]) == [[tiny, small, rest], [large], [larger]]
    assert batches([large]) == [[large]]
    assert batches([tiny]) == [[tiny]]
    assert batches([]) == []


@pytest.mark.parametrize(
    ("rtt", "connections"), [(0.0, 2), (0.01, 2), (0.035, 4), (0.05, 5), (0.08, 8), (3.0, 8)]
)
def test_a_longer_way_has_more_connections(rtt: float, connections: int) -> None:
    assert connections_for(rtt) == connections
    assert ahead_for(rtt) == (2 if rtt < 0.01 else 4)

"""Temperature and memory from the kernel's files, whatever is missing."""

from __future__ import annotations

from pathlib import Path

from edgekit.agent.serve.loop.sensors import read_sensors
from edgekit.agent.serve.session.events import Readings


def test_the_hottest_zone_and_what_is_available(tmp_path: Path) -> None:
    for number, text in enumerate(("48312\n", "51800\n", "nonsense\n")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    (tmp_path / "thermal_zone3").mkdir()
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable:    2097152 kB\n")
    assert read_sensors(tmp_path, meminfo) == Readings(52, 2048, None, 7812)


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    assert read_sensors(tmp_path, tmp_path / "none") == Readings(None, None)


def test_this_machine_tells_its_memory() -> None:
    readings = read_sensors()
    assert 0 < (readings.mem_free_mb or 0) <= (readings.mem_total_mb or 0)

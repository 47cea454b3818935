"""Temperature and memory from the kernel's files, whatever is missing."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from edgekit.agent.release.door import probe
from edgekit.agent.serve.loop.sensors import read_sensors
from edgekit.agent.serve.session.events import Readings
from edgekit.memory import memory_limits


def test_the_hottest_zone_and_what_is_available(tmp_path: Path) -> None:
    for number, text in enumerate(("48312\n", "51800\n", "nonsense\n")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    (tmp_path / "thermal_zone3").mkdir()
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable:    2097152 kB\n")
    assert read_sensors(tmp_path, meminfo, groups=[]) == Readings(52, 2048, None, 7812)


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    assert read_sensors(tmp_path, tmp_path / "none", groups=[]) == Readings(None, None)


def test_a_service_with_a_limit_has_no_more_than_that(tmp_path: Path) -> None:
    """It was healthy by the machine's memory until the kernel ended it."""
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    meminfo.write_text("MemTotal: 8000000 kB\nMemAvailable:    2097152 kB\n")
    group.mkdir()
    for name, text in (("max", 512 << 20), ("current", 500 << 20), ("stat", "inactive_file 0")):
        (group / f"memory.{name}").write_text(f"{text}\n")
    assert read_sensors(tmp_path, meminfo, groups=[group]) == Readings(None, 12, None, 512)


def test_the_probe_has_the_words_of_the_one_that_everybody_asks() -> None:
    """It runs alone on a device, so it brings its own copy."""
    theirs, own = (
        ast.parse(inspect.getsource(each)).body[0] for each in (probe.memory_limits, memory_limits)
    )
    assert isinstance(theirs, ast.FunctionDef)
    assert isinstance(own, ast.FunctionDef)
    assert list(map(ast.dump, theirs.body)) == list(map(ast.dump, own.body))


def test_this_machine_tells_its_memory() -> None:
    readings = read_sensors()
    assert 0 < (readings.mem_free_mb or 0) <= (readings.mem_total_mb or 0)

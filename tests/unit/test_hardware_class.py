"""The class of hardware: what a rollout tries one canary of each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.agent.release.door import probe
from edgekit.errors import EdgekitError
from edgekit.fleet.facts import DeviceFacts, clock_offset, parse_facts
from edgekit.fleet.hardware import hardware_class, isa_flags, isa_level, ram_class
from edgekit.fleet.plan import check_machine

GIB = 1 << 30


def facts(machine: str, flags: str, ram: int = 4 * GIB) -> DeviceFacts:
    return DeviceFacts(
        *("/r", machine, "3.11", "/bin/python3", "2.36", ram, True, None, ""), cpu_flags=flags
    )


@pytest.mark.parametrize(
    ("machine", "flags", "level"),
    [
        ("aarch64", "fp asimd evtstrm", "asimd"),  # Raspberry Pi 4
        ("aarch64", "fp asimd asimdhp asimddp", "dotprod"),  # Raspberry Pi 5
        ("aarch64", "asimd asimddp i8mm bf16 sve", "i8mm"),
        ("x86_64", "sse4_2", "base"),
        ("x86_64", "avx avx2 fma f16c", "avx2"),
        ("x86_64", "avx avx2 fma avx_vnni", "avx-vnni"),
        ("x86_64", "avx avx2 avx512f", "avx512"),
        ("x86_64", "avx avx2 avx512f avx512_vnni", "avx512-vnni"),
        ("x86_64", "avx2 avx512f avx512_vnni amx_int8", "amx"),
        ("riscv64", "v", "base"),
        ("aarch64", "", "unknown-isa"),
    ],
)
def test_the_best_instruction_set_is_the_level(machine: str, flags: str, level: str) -> None:
    assert isa_level(facts(machine, flags)) == level


@pytest.mark.parametrize(
    ("ram", "name"),
    [
        (430 << 20, "512MB"),  # Raspberry Pi Zero 2
        (906 << 20, "1GB"),
        (3_884 << 20, "4GB"),  # a Pi 4 of 4 GB as its kernel reports it
        (4 * GIB, "4GB"),
        (4 * GIB + 1, "8GB"),
        (62 * GIB, "64GB"),
    ],
)
def test_memory_has_the_size_that_it_was_sold_with(ram: int, name: str) -> None:
    assert ram_class(ram) == name


def test_a_class_is_platform_instructions_and_memory() -> None:
    one = facts("aarch64", "asimd asimddp", 7_900_000_000)
    assert hardware_class(one) == "linux/arm64 dotprod 8GB"
    assert isa_flags(one) == ["asimd", "asimddp"]


@pytest.mark.parametrize(("kernel", "built"), [("aarch64", "armv8l"), ("x86_64", "i686")])
def test_a_system_of_32_bits_on_a_kernel_of_64_runs_nothing_for_64(
    kernel: str, built: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raspberry Pi OS of 32 bits has such a kernel on a Pi 4; a push would send all, in vain."""
    monkeypatch.setattr(
        "edgekit.agent.release.door.probe.os.uname", lambda: SimpleNamespace(machine=kernel)
    )
    assert probe.machine() == kernel
    check_machine(facts(probe.machine(), ""))
    monkeypatch.setattr("edgekit.agent.release.door.probe.sys.maxsize", (1 << 31) - 1)
    assert probe.machine() == built
    with pytest.raises(EdgekitError, match=f"its Python is one for {built}") as error:
        check_machine(facts(probe.machine(), ""))
    assert "64-bit edition" in error.value.next_step


def test_a_clock_is_read_in_the_middle_of_the_round_trip() -> None:
    assert clock_offset(1000.0, 990.0, 1000.0) == (5.0, 5.0)
    assert clock_offset(100.0, 200.0, 200.5) == (-100.25, 0.25)


def test_a_probe_of_before_says_fewer_facts() -> None:
    """The device's own probe answers behind a door, and may be older."""
    told = (
        b'{"root": "/r", "machine": "aarch64", "python": "3.11", "executable": "/p", "glibc": '
        b'"2.36", "ram_bytes": 1, "writable": true, "current": null, "bootstrap": ""}'
    )
    found = parse_facts(told)
    assert (found.clock, found.temperature, found.system, found.hardware) == (None, None, "", "")


V1 = "35 31 0:32 {root} {mount} rw,relatime - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 {root} {mount} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 23 0:28 / /run rw - tmpfs t rw\n"
)


@pytest.mark.parametrize(
    ("own", "mount", "limits", "bytes_"),
    [
        ("0::/\n", (V2, "/"), {"memory.max": "512"}, 512),
        ("0::/a/b\n", (V2, "/"), {"a/b/memory.max": "max", "a/memory.max": "700"}, 700),
        ("0::/a/b\n", (V2, "/"), {"a/b/memory.max": "300", "a/memory.max": "700"}, 300),
        ("0::/docker/x\n", (V2, "/docker/x"), {"memory.max": "512"}, 512),
        ("0::/docker/x/y\n", (V2, "/docker/x"), {"y/memory.max": "400"}, 400),
        ("0::/docker/xy\n", (V2, "/docker/x"), {"y/memory.max": "400"}, None),
        ("0::/../beside\n", (V2, "/"), {"memory.max": "512", "../beside/memory.max": "1"}, 512),
        ("0::/a\n", (V2, "/"), {"a/memory.max": "max"}, None),
        ("1:cpu:/c\n4:memory:/m/n\n0::/\n", (V1, "/"), {"m/memory.limit_in_bytes": "600"}, 600),
        ("4:hugetlb,memory:/x\n", (V1, "/x"), {"memory.limit_in_bytes": "512"}, 512),
        ("4:memory:/\n", (V1, "/"), {"memory.limit_in_bytes": "9223372036854771712"}, None),
        ("1:cpu:/m\n", (V1, "/"), {"m/memory.limit_in_bytes": "600"}, None),
        ("", (V2, "/"), {"memory.max": "1"}, None),
    ],
)
def test_the_memory_is_the_lowest_limit_of_the_control_groups_above(
    own: str, mount: tuple[str, str], limits: dict[str, str], bytes_: int | None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "mounted"
    for name, text in limits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    line, top = mount
    told = {
        "/proc/self/cgroup": own,
        "/proc/self/mountinfo": OTHER + line.format(root=top, mount=folder),
    }
    real = probe.read
    monkeypatch.setattr(probe, "read", lambda path: told.get(path) or real(path))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if own:
        assert probe.memory(str(tmp_path)) == (bytes_ or machine)
    else:
        assert probe.memory_limits(own, told["/proc/self/mountinfo"]) == []


def test_an_agent_that_runs_has_the_limits_of_its_own_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's session has others; a number that another program has by now counts not."""
    (tmp_path / "agent.service").mkdir()
    (tmp_path / "agent.service" / "memory.max").write_text("900\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "memory.max").write_text("100\n")
    told = {
        f"{tmp_path}/run/supervisor.pid": "77\n",
        "/proc/77/cmdline": "python3\0-S\0-P\0-m\0edgekit.agent\0supervise\0",
        "/proc/77/cgroup": "0::/agent.service\n",
        "/proc/self/cgroup": "0::/session\n",
        "/proc/self/mountinfo": V2.format(root="/", mount=tmp_path),
    }
    real = probe.read
    monkeypatch.setattr(probe, "read", lambda path: told.get(path) or real(path))
    assert probe.memory(str(tmp_path)) == 900
    told["/proc/77/cmdline"] = "bash\0"
    assert probe.memory(str(tmp_path)) == 100
    told[f"{tmp_path}/run/supervisor.pid"] = "no number"
    assert probe.memory(str(tmp_path)) == 100


def test_the_hottest_sensor_that_answers_is_the_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, said in enumerate(("51500\n", "-5000\n", "", "asleep\n")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(said)
    (tmp_path / "cooling_device0").mkdir()
    fixed = tmp_path / "thermal_zone8"  # of a Jetson Nano, whatever its temperature is
    fixed.mkdir()
    (fixed / "type").write_text("PMIC-Die\n")
    (fixed / "temp").write_text("100000\n")
    (tmp_path / "thermal_zone9").mkdir()  # without a value
    monkeypatch.setattr("edgekit.agent.release.door.probe.THERMAL", str(tmp_path))
    assert probe.temperature() == 51.5
    monkeypatch.setattr("edgekit.agent.release.door.probe.THERMAL", str(tmp_path / "none"))
    assert probe.temperature() is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            'NAME="x"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "Debian GNU/Linux 12 (bookworm)",
        ),
        ("PRETTY_NAME=Alpine\n", "Alpine"),
        ("NAME=x\n", ""),
        ("", ""),
    ],
)
def test_the_system_has_the_name_of_its_os_release(
    text: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "read", lambda path: text)
    assert probe.system() == name

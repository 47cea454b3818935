"""The units of a device: systemd itself reads them, for a ROOT and a Python of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pytest

from edgekit import data
from edgekit.fleet.enroll import units
from tests import tools

UNITS = {path.name: path.read_text("utf-8") for path in data.path("deploy/systemd").iterdir()}
ROOT, PYTHON = PurePosixPath("/srv/edge kit".replace(" ", "-")), "/opt/python3.12/bin/python3"


def complaints(folder: Path, texts: dict[str, str], *options: str) -> str:
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    real = [str(folder / name) for name in texts if "@." not in name]
    done = subprocess.run(
        [tools.find("systemd-analyze"), *options, "verify", *real],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    missing = (f"Command {PYTHON} is not executable", "Failed to load", "Proceeding")
    return "\n".join(
        line for line in done.stderr.splitlines() if not any(one in line for one in missing)
    )


def test_a_system_install_has_the_files_as_they_are() -> None:
    assert units.system_units(UNITS, units.SYSTEM_ROOT, units.PYTHON) == UNITS


@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_understands_the_units_of_another_root(kind: str, tmp_path: Path) -> None:
    make = units.system_units if kind == "system" else units.user_units
    texts = make(UNITS, ROOT, PYTHON)
    assert complaints(tmp_path, texts, f"--{kind}") == ""
    told = [line for text in texts.values() for line in text.splitlines() if line[:1] != "#"]
    assert not [line for line in told if "/var/lib/edgekit" in line or "/usr/bin/python3" in line]
    assert any(f"--root {ROOT}" in line and PYTHON in line for line in told)
    assert (f"ReadWritePaths={ROOT}" in told) is (kind == "system")


def test_a_user_s_unit_asks_for_nothing_that_needs_root() -> None:
    texts = units.user_units(UNITS, ROOT, PYTHON)
    keys = {line.partition("=")[0] for text in texts.values() for line in text.splitlines()}
    assert not keys & {"User", "Group", "StateDirectory", "ProtectSystem", "PrivateDevices"}
    assert keys >= {"Type", "NotifyAccess", "WatchdogSec", "Restart", "ExecStart", "KillMode"}
    assert "WantedBy=default.target" in texts["edgekit-agent.service"]


def test_what_is_enabled_and_what_is_started() -> None:
    for name in units.installable(UNITS):
        assert "[Install]" in UNITS[name]
    assert "edgekit-agent.service" not in units.started(UNITS, has_release=False)
    assert "edgekit-agent.service" in units.started(UNITS, has_release=True)

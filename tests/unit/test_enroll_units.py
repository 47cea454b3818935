"""The units of a device: systemd itself reads them, for a ROOT and a Python of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from edgekit import data
from edgekit.fleet.enroll import units
from edgekit.fleet.enroll.values import SYSTEM_ROOT
from tests import tools

FOLDER = data.path("deploy/systemd")
UNITS = {path.name: path.read_text("utf-8") for path in FOLDER.glob("edgekit-*")}
OURS = {path.name: path.read_text("utf-8") for path in (FOLDER / "user").glob("edgekit-*")}
ROOT, PYTHON = PurePosixPath("/srv/edge-kit"), "/opt/python3.12/bin/python3"


def complaints(folder: Path, texts: dict[str, str], *options: str) -> str:
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    real = [str(folder / name) for name in texts if "@." not in name]
    done = subprocess.run(
        [tools.find("systemd-analyze"), *options, "verify", *real],
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder)},
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
    assert units.system_units(UNITS, SYSTEM_ROOT, units.PYTHON) == UNITS


@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_understands_the_units_of_another_root(kind: str, tmp_path: Path) -> None:
    make, files = (units.system_units, UNITS) if kind == "system" else (units.user_units, OURS)
    texts = make(files, ROOT, PYTHON)
    assert complaints(tmp_path, texts, f"--{kind}") == ""
    told = [line for text in texts.values() for line in text.splitlines() if line[:1] != "#"]
    elsewhere = ("/var/lib/edgekit", "%h", "/usr/bin/python3")
    assert not [line for line in told if any(path in line for path in elsewhere)]
    assert any(f"--root {ROOT}" in line and PYTHON in line for line in told)
    assert (f"ReadWritePaths={ROOT}" in told) is (kind == "system")


def test_what_is_enabled_and_what_is_started() -> None:
    for name in units.installable(UNITS):
        assert "[Install]" in UNITS[name]
    assert "edgekit-agent.service" not in units.started(UNITS, has_release=False)
    assert "edgekit-agent.service" in units.started(UNITS, has_release=True)

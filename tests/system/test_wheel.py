"""The wheel, installed into an empty environment, does what the checkout does."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

import edgekit

CHECKOUT = Path(edgekit.__file__).parent.parent
pytestmark = pytest.mark.timeout(600)


def test_the_wheel_runs_from_an_empty_environment(smollm2: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    carried = ZipFile(wheel).namelist()
    assert "edgekit/_data/deploy/systemd/edgekit-agent.service" in carried
    assert "edgekit/gateway/page/static/index.html" in carried
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [tmp_path / "venv" / "bin" / "edgekit", *arguments],
            cwd=tmp_path,
            env={"PATH": os.defpath, "HOME": str(Path.home())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == f"edgekit {edgekit.__version__}\n"
    run("init", ".")
    # packing needs the locks that travel in the wheel, and pip
    packed = run("pack", str(smollm2), "--name", "smollm2", "--context", "1024")
    assert "sha256:" in packed
    assert "agent.tar.zst" in run("inspect")

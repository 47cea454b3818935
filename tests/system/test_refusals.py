"""What the operating system refuses is one clear error, and nothing half-made stays."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project, make_project

pytestmark = pytest.mark.timeout(120)
SMALL_FILE_BYTES = 8 << 20  # below a runtime layer and the weights, above everything else


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Project(tmp_path, 1).run("init", str(tmp_path / "file" / "fleet"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert "next:" in done.stderr


def test_a_pack_that_cannot_be_written_leaves_the_store_as_it_was(
    smollm2: Path, tmp_path: Path
) -> None:
    project = make_project(tmp_path, 1, None)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "pack", str(smollm2), "--name", "smollm2"],
        cwd=project.folder,
        env=project.env,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (SMALL_FILE_BYTES, SMALL_FILE_BYTES)
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "too large" in done.stderr
    assert not list(project.store.rglob("*.tmp"))
    assert project.run("inspect").returncode == 2  # no bundle has come into being
    project.edgekit("pack", str(smollm2), "--name", "smollm2")

"""On a terminal, everything longer than a second shows that it moves."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import tools
from tests.conftest import make_project

pytestmark = pytest.mark.timeout(120)


def test_a_push_shows_a_bar_with_bytes_and_rate(smollm2: Path, tmp_path: Path) -> None:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        ours, theirs = pty.openpty()
        pushing = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "push", "demo"],
            cwd=project.folder,
            env=project.env | {"TERM": "xterm-256color", "COLUMNS": "120"},
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # a terminal that nobody has open any more
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
        os.close(ours)
        assert pushing.wait(60) == 0
        project.edgekit("stop", "demo")
    text = shown.decode()
    assert "demo: transfer" in text
    assert "MB/s" in text
    assert "demo: activate" in text
    assert "pushed" in text

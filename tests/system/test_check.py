"""`edgekit check` on real folders: SmolLM2 as built, edited, with a wrong source, interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.source.samples import smollm2_gguf
from edgekit.data import cache_root
from tests.building import content, environment, run_script
from tests.tools import interruptible


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgekit", "check", "--host", *map(str, arguments)]


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=500, env=environment(),
        check=False,
    )  # fmt: skip


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_sound_build_passes_lint_and_gate(smollm2: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()}
    done = check(smollm2, "-m", smollm2_gguf(), "--gate", "small", "--json")
    assert done.returncode == 0, done.stderr
    said = result(done)
    assert said["passed"]
    assert said["gate"]["verdict"]["passed"]
    assert said["gate"]["time"]["announced_seconds"] > 0
    assert "gate: measuring the model" in done.stderr  # progress, without a terminal
    assert before == {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()}


def test_an_edited_folder_of_unknown_origin_is_refused_by_name(
    smollm2: Path, python: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(smollm2, model)
    run_script(python, "faults/plant.py", "layer_zeroed", model)
    (model / "build.json").unlink()
    done = check(model, "--json")
    assert done.returncode == 4
    assert "zero-weights" in done.stderr
    said = result(done)
    assert [f["name"] for f in said["findings"] if f["severity"] == "refuse"] == ["zero-weights"]
    assert said["gate"] is None
    assert any("options of its build are unknown" in note for note in said["notes"])


def test_another_models_source_is_refused_before_anything_is_measured(
    smollm2: Path, qwen2: Path
) -> None:
    done = check(smollm2, "-m", qwen2)
    assert done.returncode == 2
    assert "is not what smollm2 was built from" in done.stderr
    assert "hidden_size" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_check_leaves_nothing(how: int, smollm2: Path, tmp_path: Path) -> None:
    before = content(smollm2).keys()
    own = tmp_path / "edgekit"  # a cache that no other test writes to
    own.mkdir()
    (own / "toolchain").symlink_to(cache_root() / "toolchain")
    with interruptible():
        started = subprocess.Popen(
            command(smollm2),
            stderr=subprocess.PIPE,
            text=True,
            env=environment(XDG_CACHE_HOME=str(tmp_path)),
        )
    with started as running:
        assert running.stderr is not None
        assert "lint: reading" in running.stderr.readline()
        os.kill(running.pid, how)
        assert "Traceback" not in running.stderr.read()
    assert running.returncode != 0
    assert content(smollm2).keys() == before
    assert list(own.rglob(".making-*")) == []

"""The process of a model that takes pictures: what it says of itself, and what it loads."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.serve.pipe import Done, FromWorker, Pipe, Refused
from edgekit.agent.serve.worker.golden import record_folder
from edgekit.core.protocol.payloads import ImagesTaken
from tests.harness.worker_process import SETTINGS, ready_worker
from tests.harness.worker_process import told as told_first
from tests.photos import hostile, png

pytestmark = pytest.mark.timeout(300)
PROMPT = [("user", [png(400, 400), "What is this?"])]


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"image_crops": 1}, ImagesTaken(1, 313, 1, 2)),
        ({"image_crops": 16, "images_per_prompt": 3}, ImagesTaken(16, 2509, 3, 3, 1344)),
        ({"max_length": 1024}, ImagesTaken(1, 313, 1, 2)),  # 757 of 1,024 would be too many
    ],
)
def test_the_worker_says_what_it_takes(
    phi3v: Path, settings: dict[str, Any], taken: ImagesTaken
) -> None:
    with ready_worker(phi3v / "model", **settings) as worker:
        assert worker.ready.images == taken
        done = worker.asked(PROMPT, "a/1")
        assert isinstance(done, Done)
        assert done.usage.prompt_tokens > taken.tokens
        assert done.usage.prompt_tokens < taken.tokens + 60


def test_a_real_process_answers_after_each_hostile_picture(phi3v: Path) -> None:
    with ready_worker(phi3v / "model", image_crops=1) as worker:
        expected = worker.asked(PROMPT, "a/0")
        assert isinstance(expected, Done)
        for number, (name, data, says) in enumerate(hostile()):
            found = worker.asked([("user", [data, "What is this?"])], f"h/{number}")
            assert isinstance(found, Refused), name
            assert says in found.message
            again = worker.asked(PROMPT, f"g/{number}")
            assert isinstance(again, Done)
            assert again.text == expected.text


def test_a_text_model_takes_no_pictures_and_loads_nothing_for_them(smollm2: Path) -> None:
    with ready_worker(smollm2, max_length=256) as worker:
        assert worker.ready.images is None
        found = worker.asked(PROMPT, "a/1")
        assert isinstance(found, Refused)
        assert "takes no pictures" in found.message
        assert isinstance(worker.asked([("user", "Hello")], "a/2"), Done)
    loads = "import sys, edgekit.agent.serve.worker.main; print('PIL' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", loads], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_a_release_without_pillow_says_so_before_it_is_ready(phi3v: Path, tmp_path: Path) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('no PIL in this release')")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pipe: Pipe[FromWorker] = Pipe(ours, FromWorker)
        told = {"model": str(phi3v / "model"), "max_length": 1024, "image_crops": 1}
        pipe.send(msgspec.structs.replace(SETTINGS, **told))
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.agent", "worker", "--descriptor", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], env={"PYTHONPATH": str(tmp_path)}, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Pillow cannot be imported: no PIL" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("part", ["vision.onnx", "embedding.onnx"])
def test_a_model_that_cannot_see_never_becomes_ready(
    phi3v: Path, part: str, tmp_path: Path
) -> None:
    for file in (phi3v / "model").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / part).unlink()
    (tmp_path / part).write_bytes(b"no graph")
    told = {"model": str(tmp_path), "max_length": 1024, "image_crops": 1}
    done = told_first(msgspec.structs.replace(SETTINGS, **told))
    assert done.returncode == 1
    assert "the model cannot be loaded" in done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_its_threads_are_measured_and_its_golden_prompts_recorded_without_pictures(
    phi3v: Path,
) -> None:
    command = ["-m", "edgekit.agent", "measure", "--model", str(phi3v / "model")]
    done = subprocess.run(
        [sys.executable, *command, "--threads", "1", "--spinning", "0"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["decode_per_s"] > 0
    assert len(record_folder(phi3v / "model", 4096)) == 4

"""How a model's process begins: by its first frame, or not at all."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.loop.process import GOLDEN_SHARE, TUNE_SHARE, worker_settings
from edgekit.agent.serve.pipe import Cancel, Message, Pipe, PipeClosedError, WorkerSettings
from edgekit.core.config import AgentConfig
from tests.harness.session import bundle
from tests.harness.worker_process import SETTINGS, started, told

pytestmark = pytest.mark.timeout(120)

CONFIG = AgentConfig(
    "pi",
    threads=3,
    slots=2,
    batching=True,
    max_beams=4,
    logits_processors="rules:make",
    trial_seconds=80.0,
)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"", "the pipe is closed"),
        (b"\0\0", "the pipe is closed"),
        (b"\0\0\0\3abc", "cannot be read"),
        (b"\xff" * 8, "too large"),
        (Cancel("a/1"), "cannot be read"),
    ],
    ids=["nothing", "half a frame", "nonsense", "too much", "another message"],
)
def test_a_worker_that_is_told_no_settings_says_so_and_ends(
    first: Message | bytes, why: str
) -> None:
    done = told(first)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("worker: the model process was not told its settings")
    assert why in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_at_a_descriptor_that_is_no_socket_says_so_and_ends() -> None:
    done = started(0)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("worker: the model process was not told its settings")
    assert "Traceback" not in done.stderr


def test_a_setting_that_the_worker_does_not_know_is_refused_by_name() -> None:
    frame = msgspec.msgpack.encode(msgspec.to_builtins(SETTINGS) | {"speed": 9})
    done = told(len(frame).to_bytes(4, "big") + frame)
    assert done.returncode == 1
    assert "speed" in done.stderr


def test_a_worker_is_told_what_agent_toml_and_the_bundle_say() -> None:
    settings = worker_settings(
        CONFIG, bundle(context_length=512), "sha256:r", Path("/model"), Path("/tuning.json")
    )
    assert settings == WorkerSettings(
        model="/model",
        release="sha256:r",
        max_length=512,
        threads=3,
        slots=2,
        batching=True,
        max_beams=4,
        logits_processors="rules:make",
        tuning="/tuning.json",
        tune_seconds=80.0 * TUNE_SHARE,
        golden_seconds=80.0 * GOLDEN_SHARE,
    )


def test_every_setting_reaches_the_worker_and_what_follows_is_not_lost() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parent: Pipe[object] = Pipe(ours, Cancel)
        parent.send(SETTINGS)
        parent.send(Cancel("a/1"))
        first: Pipe[WorkerSettings] = Pipe(theirs, WorkerSettings)
        assert first.receive() == SETTINGS
        rest = first.then(Cancel)
        assert rest.receive() == Cancel("a/1")
        parent.send(SETTINGS)
        with pytest.raises(PipeClosedError, match="cannot be read"):
            rest.receive()

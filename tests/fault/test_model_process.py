"""A model's process that is stuck does not make its parent stuck."""

from __future__ import annotations

import os
import queue
import signal
import time

import pytest

from edgekit.agent.serve.pipe import Cancel, Start
from edgekit.agent.serve.process import SEND_SECONDS, ModelProcess
from edgekit.core.chat import Sampling
from edgekit.core.wire import MAX_BODY_BYTES

pytestmark = pytest.mark.timeout(60)


def test_a_worker_that_takes_nothing_is_killed_in_bounded_time() -> None:
    ended: queue.SimpleQueue[bool] = queue.SimpleQueue()
    process = ModelProcess(
        ["--model", "none", "--max-length", "1", "--threads", "1"],
        on_message=lambda _: None,
        on_end=lambda: ended.put(True),
    )
    process.start()
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGSTOP)
    text = "x" * MAX_BODY_BYTES
    start = Start("a/1", "a", [("user", text)], Sampling(), [], 1, 0.0)
    began = time.monotonic()
    while ended.empty():  # the pipe fills up, then each try has a bound
        process.tell(start)
        assert time.monotonic() - began < 4 * SEND_SECONDS, "it is waited for without end"
    assert time.monotonic() - began >= SEND_SECONDS
    assert process._process.wait(10) == -signal.SIGKILL
    process.tell(Cancel("a/1"))  # to nobody
    process.stop()

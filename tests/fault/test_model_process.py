"""A model's process that is stuck, or ends, does not make its parent stuck."""

from __future__ import annotations

import os
import select
import signal
import socket
import time

import msgspec
import pytest

from edgekit.agent.serve.loop import polling
from edgekit.agent.serve.loop.process import ModelProcess
from edgekit.agent.serve.pipe import Cancel, FromWorker, Pipe, Refused, Start, ToWorker
from edgekit.core.chat.sampling import Sampling
from edgekit.core.protocol.wire import MAX_BODY_BYTES
from tests.harness.worker_process import SETTINGS

pytestmark = pytest.mark.timeout(60)

START = Start("a/1", "a", [("user", "x" * MAX_BODY_BYTES)], Sampling(), [], 1, 0.0)


def test_a_worker_that_takes_nothing_is_not_waited_for() -> None:
    ended: list[bool] = []
    process = ModelProcess(
        SETTINGS,
        on_message=lambda _: None,
        on_end=lambda: ended.append(True),
    )
    process.start()
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(20):  # more than the socket holds
        process.tell(START)
    polling.wait([process], 0.1)
    assert time.monotonic() - began < 5
    interest = process.interest()
    assert interest is not None
    assert interest[1] & select.POLLOUT, "what it has not taken is kept for it"
    process.kill()
    while not ended:
        polling.wait([process], 10)
    assert process._process.returncode == -signal.SIGKILL
    assert process.interest() is None
    process.tell(Cancel("a/1"))  # to nobody
    process.stop()


def test_what_a_slow_worker_did_not_take_at_once_comes_later_and_in_order() -> None:
    process = ModelProcess(SETTINGS, on_message=lambda _: None, on_end=lambda: None)
    parent, worker = socket.socketpair()
    process._pipe = Pipe(parent, FromWorker)
    theirs: Pipe[ToWorker] = Pipe(worker, ToWorker)
    keys = [f"a/{n}" for n in range(20)]
    for key in keys:
        process.tell(msgspec.structs.replace(START, key=key))
    heard: list[str] = []
    while len(heard) < len(keys):
        polling.wait([process], 0)
        message = theirs.receive(wait=False)
        if message is not None:
            heard.append(message.key)
    assert heard == keys
    theirs.sock.close()
    process.stop()


def test_a_prompt_that_no_frame_can_carry_is_refused_and_the_next_one_is_sent() -> None:
    said: list[FromWorker] = []
    process = ModelProcess(SETTINGS, on_message=said.append, on_end=lambda: None)
    parent, worker = socket.socketpair()
    process._pipe = Pipe(parent, FromWorker)
    theirs: Pipe[ToWorker] = Pipe(worker, ToWorker)
    small = msgspec.structs.replace(START, messages=[("user", "Hi")])
    for value in (10**30, object(), "\ud800"):
        process.tell(msgspec.structs.replace(small, key="a/2", options={"x": value}))
    process.tell(small)
    got = theirs.receive()
    assert isinstance(got, Start)
    assert got.key == "a/1"
    assert all(isinstance(each, Refused) and each.key == "a/2" for each in said)
    assert [each.code for each in said if isinstance(each, Refused)] == ["internal"] * 3
    process.stop()
    worker.close()

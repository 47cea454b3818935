"""Has a device pull blobs over the SSH connection that a push has open."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import msgspec

from edgekit.errors import EdgekitError
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.reverse import Listener, NoForwardingError
from edgekit.fleet.transfer.source import BlobSource
from edgekit.fleet.transfer.values import SEGMENT_BYTES, WantedBlob, ahead_for, connections_for

PULL = Path(__file__).with_name("pull.py")
PULL_SECONDS = 7 * 86400.0  # a link that brings nothing ends it far sooner

Run = Callable[[Argv, bytes, float], CommandResult]
Listen = Callable[[BlobSource], AbstractContextManager[Listener]]


class _Answer(msgspec.Struct, frozen=True):
    """What `pull.py` prints."""

    stored: dict[str, int]
    error: str
    disk: str


class NoPullError(Exception):
    """The device cannot pull from us; the text says why.

    Attributes:
        left: what it lacks now.
    """

    def __init__(self, why: str, left: Sequence[WantedBlob]) -> None:
        super().__init__(why)
        self.left = list(left)


def pull(
    listen: Listen,
    run: Run,
    python: str,
    blobs: Sequence[WantedBlob],
    cap: Cap,
    progress: Callable[[int], None],
) -> None:
    """Have a device pull blobs; returns when each part has all its bytes.

    Args:
        listen: opens the listener on the device's loopback.
        run: runs a command on the device.
        python: the device's Python.
        blobs: what it lacks.
        cap: how fast bytes may leave.
        progress: called with counts of bytes that left; some may leave twice.

    Raises:
        NoPullError: it cannot: its sshd forwards nothing, or no byte comes through.
        UnreachableError: the connection is lost.
        EdgekitError: the device cannot write a part.
    """
    token = secrets.token_urlsafe(32)
    source = BlobSource(blobs, token, cap, progress)
    try:
        with listen(source) as listener:
            job = {
                "port": listener.port,
                "token": token,
                "connections": connections_for(listener.rtt_seconds),
                "ahead": ahead_for(listener.rtt_seconds),
                "segment_bytes": SEGMENT_BYTES,
                "blobs": [
                    {"digest": b.digest, "path": b.target, "size": b.size, "have": b.have}
                    for b in blobs
                ],
            }
            argv = (python, "-I", "-c", PULL.read_text("utf-8"))
            done = run(argv, json.dumps(job).encode(), PULL_SECONDS)
    except NoForwardingError as error:
        raise NoPullError(f"its sshd forwards nothing ({error})", blobs) from error
    _check(done, blobs)


def _check(done: CommandResult, blobs: Sequence[WantedBlob]) -> None:
    """What the device says of its pull."""
    try:
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except msgspec.MsgspecError:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][-300:]
        why = f"it runs no pull: {said or f'it ended with {done.code}'}"
        raise NoPullError(why, blobs) from None
    if answer.disk:
        raise EdgekitError(
            f"{answer.disk} cannot be written on the device",
            answer.error,
            "check the free space and the rights there, then push again: "
            "the stored bytes are not sent twice",
        )
    left = [replace(blob, have=answer.stored.get(blob.target, blob.have)) for blob in blobs]
    left = [blob for blob in left if blob.lacking]
    if answer.error or left:
        raise NoPullError(f"its pull through the forwarded port ended: {answer.error}", left)

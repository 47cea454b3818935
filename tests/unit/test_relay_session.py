"""What the controller's end of an SSH session makes of a device that says what it should not."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.link.session import ANSWER_BYTES, HEAD, MAGIC, RelaySession


class Device:
    """A channel of paramiko to a device that greets, and says its piece when it is asked."""

    def __init__(self, piece: bytes) -> None:
        self._piece, self._said, self.read = piece, b"", 0
        self._more = threading.Condition()
        self.status_event, self.exit_status = threading.Event(), 0
        self.closed = False

    def exec_command(self, line: str) -> None:
        found = re.search(r"%\(\((\d+),\)", line)
        assert found
        self._say(b"%x 3.11\n" % int(found[1]))

    def sendall(self, data: bytes) -> None:
        if data[:4] == MAGIC and data[4:5] == b"E":
            self._say(self._piece)

    def _say(self, data: bytes) -> None:
        with self._more:
            self._said += data
            self._more.notify_all()

    def recv(self, count: int) -> bytes:
        with self._more:
            while not self._said and not self.closed:
                if not self._more.wait(0.2):
                    raise TimeoutError
            data, self._said = self._said[:count], self._said[count:]
            self.read += len(data)
            return data

    def settimeout(self, _: float) -> None: ...

    def recv_ready(self) -> bool:
        return bool(self._said)

    def recv_stderr_ready(self) -> bool:
        return False

    def get_transport(self) -> Any:
        return self

    def is_active(self) -> bool:
        return not self.closed

    def close(self) -> None:
        with self._more:
            self.closed = True
            self._more.notify_all()


def frame(kind: bytes, content: bytes) -> bytes:
    return HEAD.pack(MAGIC, kind, len(content)) + content


DONE = frame(b"C", b'{"code": 0, "late": false}')
ENDLESS = HEAD.pack(MAGIC, b"O", ANSWER_BYTES + 1) + b"x" * 4096


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (ENDLESS, "it says 67,108,865 bytes at once"),
        (DONE, "says what no relay says"),
        (frame(b"O", b"") + DONE, "says what no relay says"),
        (frame(b"O", b"") + frame(b"X", b"") + frame(b"C", b"[]"), "says what no relay says"),
        (frame(b"O", b"") + frame(b"X", b"") + frame(b"C", b"{"), "says what no relay says"),
    ],
)
def test_what_no_relay_says_ends_the_session_with_its_reason(piece: bytes, why: str) -> None:
    device = Device(piece)
    session = RelaySession(device, "pi", "python3")
    for _ in range(2):
        with pytest.raises(UnreachableError, match="pi is gone") as caught:
            session.run(("python3", "-"), b"", 5)
        assert why in caught.value.why
    assert device.closed
    assert device.read < 8192, "what is too long is not read"


@pytest.mark.parametrize("content", [b"[]", b'{"size": "many"}', b"7", b"{"])
def test_an_answer_to_bytes_that_is_none_ends_the_session(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"bytes")
    session = RelaySession(Device(frame(b"C", content)), "pi", "python3")
    with pytest.raises(UnreachableError, match="pi is gone"):
        session.append(tmp_path / "part", "/there", 0, lambda _: None)


def test_what_a_relay_says_is_taken(tmp_path: Path) -> None:
    session = RelaySession(
        Device(frame(b"O", b"out") + frame(b"X", b"err") + DONE), "pi", "python3"
    )
    done = session.run(("python3", "-"), b"", 5)
    assert (done.code, done.stdout, done.stderr) == (0, b"out", b"err")
    (tmp_path / "part").write_bytes(b"bytes")
    full = Device(frame(b"C", b'{"error": "No space left on device"}'))
    with pytest.raises(EdgekitError, match="cannot be written") as caught:
        RelaySession(full, "pi", "python3").append(tmp_path / "part", "/t", 0, lambda _: None)
    assert "No space left" in caught.value.why

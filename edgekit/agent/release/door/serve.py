"""The door of a device: one push over a socket, for an account that does not own ROOT.

It speaks the frames of `fleet/link/relay.py`: to a controller it is the relay that it sent. But it
runs only what `admitted` lets in, with the device's own trees and on its own ROOT, and writes only
partial blobs. systemd starts one for each connection (`edgekit-updater@.service`); the socket is
standard input and output. A verb that runs when the connection is cut runs to its end.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

from edgekit.agent.release.door import admitted
from edgekit.agent.release.door.sessions import OwnSession
from edgekit.agent.release.root import Root
from edgekit.core import layout
from edgekit.errors import VerificationError

HEAD = struct.Struct(">4scI")
MAGIC = b"\0EK\1"
TURN_SECONDS = 1.0
BEAT_TURNS = 5
SILENT_SECONDS = 100.0
PROBE = Path(__file__).with_name("probe.py")
PROBE_SECONDS = 60.0
REQUEST_BYTES = 1 << 16  # of a frame that asks for something
DATA_BYTES = 1 << 20  # of a frame with bytes
STDIN_BYTES = 16 << 20  # of a verb: manifest, metadata, configuration
FREE_BYTES = 64 << 20  # a transfer leaves so much of the disk


class HangUpError(Exception):
    """The controller is gone, or says what no controller says."""


class Door:
    """Serves one session; `serve` returns when it is over."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._reader = sys.stdin.buffer
        self._lock = threading.Lock()
        self._waiting_since = 0.0
        self._begun = self._busy = self._gone = False
        self._session = OwnSession(root)

    def serve(self) -> None:
        """Greet, then answer one request after the other."""
        signal.alarm(int(SILENT_SECONDS))  # ends a session that does not begin
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            (length,) = struct.unpack(">I", self._bytes(4))
            if length > admitted.COMMAND_BYTES:
                return
            mark, size = admitted.greeting(self._bytes(length))
        except VerificationError as error:
            os.write(1, b"refused: " + f"{error}\n".encode())
            return
        except HangUpError:
            return
        os.write(1, b"%x %d.%d\n" % (mark, *sys.version_info[:2]))
        try:
            self._bytes(size)  # the relay's text: this is the relay
            signal.alarm(0)
            self._begun = True
            while not self._gone:
                self._answer(*self._frame())
        except HangUpError:
            return

    # --- frames -------------------------------------------------------------------------------
    def _bytes(self, count: int) -> bytes:
        data = self._reader.read(count)
        if len(data) < count:
            raise HangUpError
        return data

    def _frame(self) -> tuple[bytes, bytes]:
        """The next frame but `P`."""
        while True:
            self._waiting_since = time.monotonic()
            magic, kind, length = HEAD.unpack(self._bytes(HEAD.size))
            allowed = {b"D": DATA_BYTES, b"R": REQUEST_BYTES, b"W": REQUEST_BYTES}.get(kind, 0)
            if magic != MAGIC or length > allowed:
                raise HangUpError
            content = self._bytes(length)
            self._waiting_since = 0.0
            if kind != b"P":
                if kind == b"R":
                    self._session.acts()
                else:
                    self._session.acts(len(content))
                return kind, content

    def _data(self) -> bytes | None:
        """The bytes of one `D`; None at `E`."""
        kind, content = self._frame()
        if kind not in (b"D", b"E"):
            raise HangUpError
        return content if kind == b"D" else None

    def _send(self, kind: bytes, content: bytes = b"") -> None:
        if not self._lock.acquire(timeout=SILENT_SECONDS):
            os._exit(1)  # what was sent before is not taken
        try:
            data = HEAD.pack(MAGIC, kind, len(content)) + content
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            self._gone = True
        finally:
            self._lock.release()

    def _beat(self) -> None:
        for turn in count():
            if self._begun and turn % BEAT_TURNS == 0:
                self._send(b"B")
            time.sleep(TURN_SECONDS)
            if self._busy:
                self._session.acts()
                continue
            since = self._waiting_since
            silent = since and time.monotonic() - since > SILENT_SECONDS
            if silent or self._gone or self._session.is_over():
                os._exit(1)  # the other thread waits for a frame that never comes

    # --- requests -----------------------------------------------------------------------------
    def _answer(self, kind: bytes, content: bytes) -> None:
        try:
            told = json.loads(content)
        except (ValueError, RecursionError):
            raise HangUpError from None
        if not isinstance(told, dict) or kind not in (b"R", b"W"):
            raise HangUpError
        if kind == b"W":
            self._write(told)
            return
        stdin = b""
        while (data := self._data()) is not None:
            if len(stdin) + len(data) > STDIN_BYTES:
                raise HangUpError
            stdin += data
        try:
            wanted = admitted.request(told.get("argv"), self._root.path)
            seconds = admitted.seconds(told.get("seconds"))
        except VerificationError as error:
            self._finish(json.dumps(error.to_dict()).encode(), str(error).encode(), error.exit_code)
            return
        if isinstance(wanted, admitted.ReadFacts):
            self._finish(*_facts(self._root))
            return
        environment = layout.environment(self._root.path, wanted.trees)
        self._busy = True
        self._finish(*_run(wanted.words, stdin, seconds, environment))
        self._busy = False

    def _finish(self, out: bytes, errors: bytes, code: int, late: bool = False) -> None:
        self._send(b"O", out)
        self._send(b"X", errors)
        self._send(b"C", json.dumps({"code": code, "late": late}).encode())

    def _write(self, told: dict[str, Any]) -> None:
        """Store bytes of a partial blob; an error is told at once, not after the last byte."""
        problem, descriptor, at = "", -1, 0
        try:
            name, at = admitted.part(told.get("path"), told.get("offset"), self._root.path)
            descriptor = _open(self._root, name, at)
        except (VerificationError, OSError) as error:
            problem = self._refuse(error)
        while (data := self._data()) is not None:
            if problem:
                continue
            try:
                at = _store(descriptor, data, at)
            except OSError as error:
                problem = self._refuse(error)
        if not problem:
            self._send(b"C", json.dumps({"size": os.fstat(descriptor).st_size}).encode())
        if descriptor >= 0:
            os.close(descriptor)

    def _refuse(self, error: Exception) -> str:
        text = str(getattr(error, "why", "") or getattr(error, "strerror", "") or error)
        self._send(b"C", json.dumps({"error": text}).encode())
        return text


def _open(root: Root, name: str, at: int) -> int:
    """Open a partial blob without following a link; bytes begin within it or at its end."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if at else os.O_TRUNC)
    descriptor = os.open(root.store.folder / name, flags, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or at > found.st_size:
        os.close(descriptor)
        raise OSError(f"{name} is no partial blob with {at:,} bytes")
    return descriptor


def _store(descriptor: int, data: bytes, at: int) -> int:
    """Write bytes; return where the next ones go."""
    place = os.fstatvfs(descriptor)
    if place.f_bavail * place.f_frsize < FREE_BYTES + len(data):
        raise OSError(f"less than {FREE_BYTES:,} bytes are free on the device")
    while data:
        done = os.pwrite(descriptor, data, at)
        data, at = data[done:], at + done
    return at


def _facts(root: Root) -> tuple[bytes, bytes, int]:
    """The output of the device's own probe; it says that a door was asked."""
    python = [sys.executable, "-I", str(PROBE), str(root.path)]
    done = subprocess.run(
        python, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
    )
    if done.returncode != 0:
        return done.stdout, done.stderr, done.returncode
    return json.dumps(json.loads(done.stdout) | {"door": True}).encode(), b"", 0


def _run(
    words: tuple[str, ...], stdin: bytes, seconds: float, environment: dict[str, str]
) -> tuple[bytes, bytes, int, bool]:
    """Both outputs of a verb, its exit code, and whether it was ended because it took too long."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-P", "-m", "edgekit.agent", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(stdin, seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return b"", b"", 124, True
    code = process.returncode
    return out, errors, code if code >= 0 else 128 - code, False

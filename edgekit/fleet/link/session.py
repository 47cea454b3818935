"""The one SSH session of a push: starts `relay.py` on the device and talks to it in frames.

The command line has only what sh, csh, fish and a restricted shell read alike; the relay's text
follows on standard input once the device's Python has said that it runs. What a login script prints
before that is skipped. Silence ends the session once, with one reason, for every later call too.
"""

from __future__ import annotations

import json
import queue
import re
import secrets
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import paramiko

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.commands import Argv, CommandResult, relay_line
from edgekit.fleet.link.local import overdue
from edgekit.fleet.plan import check_python

RELAY = Path(__file__).with_name("relay.py")
HEAD = struct.Struct(">4scI")
MAGIC = b"\0EK\1"
LOGIN_SECONDS = 60.0  # a login shell, its scripts and the start of Python
ANSWER_SECONDS = 15.0  # of the sshd itself
SILENT_SECONDS = 60.0  # the device says something every five seconds
PING_SECONDS = 15.0
GRACE_SECONDS = 15.0  # the relay itself ends a command that takes too long
STORE_SECONDS = 300.0  # after the last byte, until the device's disk has taken all
PRINTED_BYTES = 1 << 20  # of a login script; more is no greeting
CHUNK_BYTES = 1 << 18
ANSWER_BYTES = 64 << 20  # of a command's output; a device may say without end, and takes no memory
SHOWN_BYTES = 200  # of what is printed where it should not be
_NO_ANSWER = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
GONE = "check its power and network, then run it again"


class RelaySession:
    """A relay on a device, over one SSH session.

    Args:
        channel: an open session channel of paramiko, on which no command runs yet.
        where: the destination, for messages.
        python: the device's Python.

    Raises:
        UnreachableError: the login shell does not come to our command, or the link is lost.
        EdgekitError: the device's Python does not run or is too old, or another program runs
            in place of our command.
    """

    def __init__(self, channel: Any, where: str, python: str) -> None:
        self._channel = channel
        self._where = where
        self._python = python
        self._printed = self._errors = b""
        self._ended = ""  # the one reason why nothing goes over this session any more
        self._sending = threading.Lock()
        self._ending = threading.Lock()
        self._over = threading.Event()
        self._answers: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._start()

    def run(self, argv: Argv, stdin: bytes, seconds: float) -> CommandResult:
        """Run a command on the device.

        Raises:
            UnreachableError: the session has ended, or the command has taken too long.
        """
        told = {"argv": argv, "seconds": seconds, "own": argv[0] == self._python}
        self._send(b"R", json.dumps(told).encode())
        for at in range(0, len(stdin), CHUNK_BYTES):
            self._send(b"D", stdin[at : at + CHUNK_BYTES])
        self._send(b"E")
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        found: dict[bytes, bytes] = {}
        while b"C" not in found:
            try:
                kind, content = self._answer(deadline)
            except queue.Empty:
                self._end("a command did not end")
                raise overdue(self._where, argv, seconds) from None
            found[kind] = content
        try:
            done = json.loads(found[b"C"])
            late, result = done["late"], CommandResult(int(done["code"]), found[b"O"], found[b"X"])
        except _NO_ANSWER:
            self._end("it says what no relay says")
            self._raise_gone()
        if late:
            raise overdue(self._where, argv, seconds)
        return result

    def append(
        self, source: Path, target: str, offset: int, progress: Callable[[int], None]
    ) -> int:
        """Write the bytes of `source` after `offset` to `target`; the size that `target` has then.

        Raises:
            UnreachableError: the session has ended, or the device's disk does not go on.
            EdgekitError: the device cannot write there; told at once, not after the last byte.
        """
        self._send(b"W", json.dumps({"path": target, "offset": offset}).encode())
        with source.open("rb") as reader:
            reader.seek(offset)
            while self._answers.empty() and (chunk := reader.read(CHUNK_BYTES)):
                self._send(b"D", chunk)
                progress(len(chunk))
        self._send(b"E")
        try:
            _, content = self._answer(time.monotonic() + STORE_SECONDS)
        except queue.Empty:
            self._end(f"its disk did not take all bytes within {STORE_SECONDS:g} s")
            self._raise_gone()
        try:
            answer = json.loads(content)
            error, size = str(answer.get("error", "")), int(answer.get("size", 0))
        except _NO_ANSWER:
            self._end("it says what no relay says")
            self._raise_gone()
        if error:
            raise EdgekitError(
                f"{target} cannot be written on {self._where}",
                error,
                "check the free space and the rights there, then push again: "
                "the stored bytes are not sent twice",
            )
        return size

    def close(self) -> None:
        """End the session; the relay ends with it."""
        self._ended = self._ended or "it was closed"
        self._over.set()
        self._answers.put((b"", b""))  # another thread may wait

    def _start(self) -> None:
        mark, text = secrets.randbits(60) | 1 << 59, RELAY.read_bytes()
        try:
            self._exec(relay_line(self._python, mark, len(text)))
            version = self._hello(mark)
            check_python(version)
            self._channel.settimeout(SILENT_SECONDS)
            self._channel.sendall(text)
        except (OSError, EOFError, paramiko.SSHException) as error:
            why = f"{str(error) or 'the connection was lost'}, while a command was started"
            raise UnreachableError(f"{self._where} is gone", why, GONE) from error
        self._reader.start()
        threading.Thread(target=self._ping, daemon=True).start()

    def _exec(self, line: str) -> None:
        """Have sshd start a command; paramiko itself would wait for the answer for ever."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._channel.get_transport().close()

        timer = threading.Timer(ANSWER_SECONDS, give_up)
        timer.daemon = True
        timer.start()
        try:
            self._channel.exec_command(line)
        except (OSError, EOFError, paramiko.SSHException) as error:
            if late.is_set():
                raise TimeoutError("the link is silent") from error
            raise
        finally:
            timer.cancel()

    def _hello(self, mark: int) -> str:
        """Skip what login scripts print and return the version of the device's Python."""
        deadline = time.monotonic() + LOGIN_SECONDS
        said = re.compile(rb"%x (\d+\.\d+)\r?\n" % mark)
        self._channel.settimeout(0.2)
        while not (found := said.search(self._printed)):
            try:
                data = self._channel.recv(CHUNK_BYTES)
                self._printed += data
            except TimeoutError:
                data = None
            while self._channel.recv_stderr_ready():
                self._errors += self._channel.recv_stderr(CHUNK_BYTES)
            if data == b"":
                self._raise_not_started()
            if len(self._printed) + len(self._errors) > PRINTED_BYTES:
                self._raise_other_program("it prints without end")
            if time.monotonic() > deadline:
                if not self._sshd_answers():
                    raise TimeoutError("the link is silent")
                raise UnreachableError(
                    f"{self._where}: the login did not come to our command within "
                    f"{LOGIN_SECONDS:g} s",
                    self._said() or "it printed nothing",
                    "log in and look at what the login scripts (.bashrc, .cshrc, config.fish) and "
                    "a ForceCommand of its sshd do for a command; then run it again",
                )
        return found[1].decode()

    def _sshd_answers(self) -> bool:
        """Whether the link is alive although the login is not done."""
        ask = self._channel.get_transport().global_request
        asked = threading.Thread(target=ask, args=("keepalive@openssh.com",), daemon=True)
        asked.start()
        asked.join(ANSWER_SECONDS)
        return not asked.is_alive() and bool(self._channel.get_transport().is_active())

    def _said(self) -> str:
        """The end of what the device printed in place of an answer, in one line."""
        text = (self._errors.strip() or self._printed.strip()).decode("utf-8", "replace")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[-300:]

    def _raise_not_started(self) -> NoReturn:
        channel = self._channel
        while channel.recv_stderr_ready():
            self._errors += channel.recv_stderr(CHUNK_BYTES)
        if not channel.status_event.wait(GRACE_SECONDS) or channel.exit_status == -1:
            lost = not channel.get_transport().is_active()
            raise UnreachableError(
                f"{self._where} is gone" if lost else f"{self._where} ended the session",
                self._said() or "the connection was closed while a command was started",
                GONE,
            )
        code = channel.exit_status
        name = self._python.rpartition("/")[2]
        if code in (126, 127) or name.encode() in self._errors:
            raise EdgekitError(
                f"{self._where}: {self._python} does not run on the device",
                self._said() or f"it ended with {code}",
                "install python3 (3.11 or newer) on the device, or set python= in fleet.toml",
            )
        self._raise_other_program(f"it ended with {code}")

    def _raise_other_program(self, how: str) -> NoReturn:
        raise EdgekitError(
            f"{self._where} does not run our command",
            f"{how}; it printed: {self._said() or 'nothing'}",
            "a ForceCommand of its sshd, a `command=` of the key or the account's shell is the "
            "usual cause: push to an account with a shell",
        )

    def _listen(self) -> None:
        """Take frames until the session ends."""
        try:
            while True:
                head = self._exactly(HEAD.size)
                magic, kind, length = HEAD.unpack(head)
                if magic != MAGIC:
                    said = self._rest(head)
                    return self._end(f"a program of its login prints into the session: {said}")
                if length > ANSWER_BYTES:
                    return self._end(f"it says {length:,} bytes at once")
                content = self._exactly(length)
                if kind != b"B":
                    self._answers.put((kind, content))
        except TimeoutError:
            self._end(f"the link is silent: nothing came for {SILENT_SECONDS:g} s")
        except (OSError, EOFError, paramiko.SSHException) as error:
            self._end(str(error) or "the connection was lost")

    def _rest(self, head: bytes) -> str:
        """What is there after the head of what is no frame, for a message."""
        more = self._channel.recv(SHOWN_BYTES) if self._channel.recv_ready() else b""
        return ascii((head + more)[:SHOWN_BYTES].decode("utf-8", "replace"))

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            data = self._channel.recv(min(count, CHUNK_BYTES))
            if not data:
                raise EOFError(self._why_closed())
            parts.append(data)
            count -= len(data)
            while self._channel.recv_stderr_ready():  # a full window would stop the session
                self._channel.recv_stderr(CHUNK_BYTES)
        return b"".join(parts)

    def _why_closed(self) -> str:
        if self._channel.status_event.wait(1) and self._channel.exit_status not in (-1, 0):
            return f"the program that runs our verbs there ended with {self._channel.exit_status}"
        return "the connection was closed"

    def _ping(self) -> None:
        """Say that we are here: without that a relay ends, and its push's lease with it."""
        while not self._over.wait(PING_SECONDS):
            try:
                self._send(b"P")
            except UnreachableError:
                return

    def _send(self, kind: bytes, content: bytes = b"") -> None:
        if self._ended:
            self._raise_gone()
        try:
            with self._sending:
                self._channel.sendall(HEAD.pack(MAGIC, kind, len(content)) + content)
        except (OSError, EOFError, paramiko.SSHException) as error:
            self._reader.join(GRACE_SECONDS)  # what it finds out is the reason
            stuck = isinstance(error, TimeoutError)
            why = str(error) or "the connection was lost"
            self._end(f"it took no bytes for {SILENT_SECONDS:g} s" if stuck else why)
            self._raise_gone()

    def _answer(self, deadline: float) -> tuple[bytes, bytes]:
        kind, content = self._answers.get(timeout=max(deadline - time.monotonic(), 0))
        if not kind:
            self._raise_gone()
        return kind, content

    def _end(self, why: str) -> None:
        """End the session for the first reason that is found; the connection ends with it."""
        with self._ending:
            if self._ended:
                return
            self._ended = why
        self._over.set()
        self._channel.get_transport().close()
        self._answers.put((b"", b""))

    def _raise_gone(self) -> NoReturn:
        raise UnreachableError(f"{self._where} is gone", self._ended, GONE)

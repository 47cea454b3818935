"""Pulls blobs through a push's SSH connection. It runs *there*: standard library only.

Standard input has the job as JSON: the `port` of the listener that sshd opened on the loopback for
this push, the `token` that its other end wants, how many `connections` to use, how many segments of
`segment_bytes` each asks for `ahead`, and the `blobs` with `digest`, `path`, `size` and `have`.
Standard output has as JSON what each path holds at the end (`stored`), and what went wrong:
`error` with the text, `disk` with the path that cannot be written.

A part grows at its end alone: its length says how many of its bytes are there. Segments that come
before their turn wait in memory, at most `connections * ahead` of them.
"""

import fcntl
import json
import os
import re
import selectors
import socket
import sys
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:  # as typing has it; an import of that takes a sixth of our start
    from typing import Any

HOSTS = ("127.0.0.1", "::1")
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # a connection that owes bytes
LOCK_SECONDS = 120.0  # another push that has just died may still write
MOST_FAILURES = 6  # connections that brought no byte, one after the other
PAUSE_SECONDS = 0.1  # after the first of them; it doubles
HEAD_BYTES = 4096
# A connection is read once so much lies there, or all that it owes: each time costs more than bytes
LOW_WATER_BYTES = 512 << 10
LOW_WATER_SECONDS = 0.2  # then what lies there is read
_CONTENT_RANGE = re.compile(rb"\r\ncontent-range: bytes ([0-9]+)-([0-9]+)/([0-9]+)\r\n", re.I)


class PullError(Exception):
    """It cannot go on."""


class DiskError(Exception):
    """A part cannot be written: its path and the reason."""


class BlobPart:
    """The file that collects a blob; its length is how many of the blob's bytes are there."""

    def __init__(self, told: "dict[str, Any]") -> None:
        self.digest, self.path, self.size = told["digest"], told["path"], told["size"]
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
            self.descriptor = os.open(self.path.encode(), flags, 0o600)
            self._lock()
            there = os.fstat(self.descriptor).st_size
            # Never after a hole, and never before what another push has brought meanwhile
            self.stored = min(told["have"], there)
            if not told["have"] and there:
                os.ftruncate(self.descriptor, 0)
        except OSError as error:
            raise DiskError(self.path, error.strerror or str(error)) from None

    def _lock(self) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError("another push writes it") from None
                time.sleep(0.1)

    def store(self, data: memoryview) -> None:
        """Write bytes at the end."""
        try:
            while data:
                done = os.pwrite(self.descriptor, data, self.stored)
                data = data[done:]
                self.stored += done
        except OSError as error:
            raise DiskError(self.path, error.strerror or str(error)) from None


class Segment:
    """Bytes `at` to `end` of a blob; `got` of them came, `stored` of these are in the part."""

    def __init__(self, part: BlobPart, at: int, end: int) -> None:
        self.part, self.at, self.end = part, at, end
        self.got = self.stored = 0
        self.buffer = bytearray()  # from the first request until all is stored

    def view(self) -> memoryview:
        """Where the next bytes go."""
        return memoryview(self.buffer)[self.got : self.end - self.at]

    def missing(self) -> int:
        """Bytes that have not come."""
        return self.end - self.at - self.got


class Connection:
    """One connection, and the segments that it owes, in the order of the requests."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.owed: deque[Segment] = deque()
        self.head = b""  # of an answer, until it is whole
        self.in_body = False
        self.heard = time.monotonic()
        self.brought = False
        self.low_water = 1

    def wait_for(self) -> None:
        """Have the kernel wake us up once there is a good deal to read, or all that is owed."""
        owed = sum(segment.missing() for segment in self.owed)
        low_water = max(1, min(LOW_WATER_BYTES, owed))  # a head comes with bytes behind it
        if low_water != self.low_water:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)
            self.low_water = low_water


class Pull:
    """One transfer."""

    def __init__(self, job: "dict[str, Any]") -> None:
        self.job = job
        self.parts = [BlobPart(told) for told in job["blobs"]]
        self.todo: deque[Segment] = deque()  # not asked for yet
        self.line: deque[Segment] = deque()  # asked for, and not stored whole, in their order
        for part in self.parts:
            for at in range(part.stored, part.size, job["segment_bytes"]):
                self.todo.append(Segment(part, at, min(at + job["segment_bytes"], part.size)))
        self.again: list[Segment] = []  # of connections that broke
        self.buffers: list[bytearray] = []  # that no segment uses
        self.selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        self.failures, self.pause_until = 0, 0.0
        self.host = ""
        self.parent = os.getppid()

    def run(self) -> None:
        """Pull all; raises PullError or DiskError."""
        while self.todo or self.line:
            self.connect()
            for connection in list(self.connections):
                self.ask(connection)
            for connection in self.connections:
                connection.wait_for()
            ready = self.selector.select(LOW_WATER_SECONDS if self.connections else PAUSE_SECONDS)
            for connection in [key.data for key, _ in ready] or list(self.connections):
                self.hear(connection)
            if os.getppid() != self.parent:
                raise PullError("its push has ended")
            now = time.monotonic()
            for connection in self.connections:
                if connection.owed and now - connection.heard > SILENT_SECONDS:
                    raise PullError(f"nothing came for {SILENT_SECONDS:g} s")

    def connect(self) -> None:
        """Have as many connections as there is work for."""
        wanted = min(self.job["connections"], len(self.line) + len(self.todo))
        while len(self.connections) < wanted and time.monotonic() >= self.pause_until:
            error, gone = "", True
            for host in [self.host] if self.host else HOSTS:
                try:
                    sock = socket.create_connection((host, self.job["port"]), CONNECT_SECONDS)
                except OSError as problem:
                    error = error or problem.strerror or str(problem)
                    gone = gone and isinstance(problem, ConnectionRefusedError)
                    continue
                self.host = host
                sock.setblocking(False)
                self.connections.append(Connection(sock))
                self.selector.register(sock, selectors.EVENT_READ, self.connections[-1])
                break
            else:
                if gone:  # the listener ends with the connection of its push
                    raise PullError(error)
                self.failed(error)
                return

    def ask(self, connection: Connection) -> None:
        """Send requests ahead, the earliest bytes first."""
        room = self.job["connections"] * self.job["ahead"]
        while len(connection.owed) < self.job["ahead"]:
            if self.again:
                segment = min(self.again, key=self.line.index)
                self.again.remove(segment)
            elif self.todo and len(self.line) < room:
                segment = self.todo.popleft()
                free = self.buffers
                segment.buffer = free.pop() if free else bytearray(self.job["segment_bytes"])
                self.line.append(segment)
            else:
                return
            connection.owed.append(segment)
            if len(connection.owed) == 1:
                connection.heard = time.monotonic()
            text = (
                f"GET /blobs/{segment.part.digest} HTTP/1.1\r\nHost: edgekit\r\n"
                f"Range: bytes={segment.at + segment.got}-{segment.end - 1}\r\n"
                f"Authorization: Bearer {self.job['token']}\r\n\r\n"
            )
            try:
                why = "" if connection.sock.send(text.encode()) == len(text) else "it takes nothing"
            except OSError as error:
                why = error.strerror or str(error)
            if why:
                self.drop(connection, why)
                return

    def hear(self, connection: Connection) -> None:
        """Take all that came over a connection."""
        more = True
        while more:
            try:
                if connection.in_body:
                    view = connection.owed[0].view()
                    count = connection.sock.recv_into(view)
                    more = count == len(view)
                    self.took(connection, count)
                else:
                    data = connection.sock.recv(HEAD_BYTES)
                    more = len(data) == HEAD_BYTES
                    self.read(connection, data)
            except BlockingIOError:
                return
            except OSError as error:
                self.drop(connection, error.strerror or str(error))
                return
            more = more and bool(connection.owed)

    def read(self, connection: Connection, data: bytes) -> None:
        """Take heads of answers, and the bytes behind them."""
        if not data:
            self.drop(connection, "it was closed")
        while data:
            if connection.in_body:
                view = connection.owed[0].view()
                count = min(len(data), len(view))
                view[:count] = data[:count]
                data = data[count:]
                self.took(connection, count)
                continue
            head, end, data = (connection.head + data).partition(b"\r\n\r\n")
            if not end:
                connection.head, data = head, b""
                if len(head) > HEAD_BYTES:
                    raise PullError("the answer has no end")
                return
            connection.head = b""
            check(head + b"\r\n", connection.owed[0] if connection.owed else None)
            connection.in_body = True

    def took(self, connection: Connection, count: int) -> None:
        """Count bytes that came, and store those whose turn it is."""
        if not count:
            self.drop(connection, "it was closed")
            return
        self.failures = 0
        connection.heard, connection.brought = time.monotonic(), True
        segment = connection.owed[0]
        segment.got += count
        if not segment.missing():
            connection.owed.popleft()
            connection.in_body = False
        while self.line:
            first = self.line[0]
            if first.got > first.stored:
                first.part.store(memoryview(first.buffer)[first.stored : first.got])
                first.stored = first.got
            if first.missing():
                return
            self.buffers.append(self.line.popleft().buffer)

    def drop(self, connection: Connection, why: str) -> None:
        """Give up a connection; what it owes is asked for again, without the bytes that came."""
        self.selector.unregister(connection.sock)
        connection.sock.close()
        self.connections.remove(connection)
        self.again += connection.owed
        if connection.owed and not connection.brought:
            self.failed(why)

    def failed(self, why: str) -> None:
        """Count a connection that brought nothing; wait, or give up."""
        self.failures += 1
        if self.failures >= MOST_FAILURES and not self.connections:
            raise PullError(why)
        self.pause_until = time.monotonic() + PAUSE_SECONDS * 2 ** min(self.failures, 5)


def check(head: bytes, segment: "Segment | None") -> None:
    """Compare an answer with what was asked for; raises PullError."""
    line = head.partition(b"\r\n")[0].decode("latin-1")
    if not line.startswith("HTTP/1.1 206 ") or segment is None:
        raise PullError("the answer is " + ascii(line[:80]))
    found = _CONTENT_RANGE.search(head)
    wanted = (segment.at + segment.got, segment.end - 1, segment.part.size)
    length = b"\r\ncontent-length: %d\r\n" % segment.missing()
    if found is None or tuple(map(int, found.groups())) != wanted or length not in head.lower():
        raise PullError("the answer has other bytes than those that were asked for")


def main() -> None:
    """Do the job of standard input."""
    answer: dict[str, Any] = {"stored": {}, "error": "", "disk": ""}
    parts: list[BlobPart] = []
    try:
        pull = Pull(json.load(sys.stdin))
        parts = pull.parts
        pull.run()
    except DiskError as error:
        answer["disk"], answer["error"] = error.args
    except PullError as error:
        answer["error"] = str(error)
    answer["stored"] = {part.path: part.stored for part in parts}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

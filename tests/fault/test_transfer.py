"""What goes wrong between a device that pulls blobs and our source."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.core.digest import Digest
from edgekit.fleet.transfer import source
from edgekit.fleet.transfer.values import WantedBlob
from tests.harness.pulling import (
    TOKEN,
    Breaking,
    blob,
    job,
    listening,
    pulled,
    reset,
    source_of,
    whole,
)

pytestmark = pytest.mark.timeout(90)


def ask(port: int, *lines: str) -> bytes:
    """The answer to one request, until the connection ends or falls silent."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(0.5)
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        data = b""
        try:
            while more := sock.recv(1 << 16):
                data += more
        except TimeoutError:
            pass
        return data


def ends(say: Callable[[], object], pause: float = 0.0) -> bool:
    """Whether the other side ends a connection while we go on talking."""
    try:
        for _ in range(1000):
            say()
            time.sleep(pause)
    except OSError:
        return True
    return False


@pytest.fixture
def wanted(tmp_path: Path) -> WantedBlob:
    return blob(tmp_path, 3 << 20)


def test_blobs_are_pulled_and_a_part_goes_on_where_it_ended(tmp_path: Path) -> None:
    blobs = [blob(tmp_path, 3_000_001, 1_234_567), blob(tmp_path, 10, seed=2)]
    blobs += [blob(tmp_path, 0, seed=3), blob(tmp_path, 1 << 20, 1 << 20, seed=4)]
    ours = source_of(blobs)
    with listening(ours.serve) as port:
        answer = pulled(job(port, blobs))
    assert answer == {
        "stored": {b.target: b.size for b in blobs},
        "error": "",
        "disk": "",
    }
    assert all(map(whole, blobs))
    assert ours.sent == sum(b.lacking for b in blobs), "no byte leaves twice"


def test_a_part_without_use_is_begun_again(tmp_path: Path, wanted: WantedBlob) -> None:
    Path(wanted.target).write_bytes(bytes(5 << 20))  # longer than the blob, and other bytes
    with listening(source_of([wanted]).serve) as port:
        pulled(job(port, [wanted]))
    assert whole(wanted)


def test_a_part_that_lost_bytes_gets_no_hole(tmp_path: Path) -> None:
    wanted = blob(tmp_path, 3 << 20, 2 << 20)
    with Path(wanted.target).open("r+b") as file:
        file.truncate(1 << 20)  # since the device said how many it has
    with listening(source_of([wanted]).serve) as port:
        pulled(job(port, [wanted]))
    assert whole(wanted)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET /blobs/{digest} HTTP/1.1", "Range: bytes=0-9"], 401),
        (["GET /blobs/{digest} HTTP/1.1", "Range: bytes=0-9", "Authorization: Bearer x"], 401),
        (["GET /blobs/{digest} HTTP/1.1", "Range: bytes=0-9", "Authorization: {token}"], 401),
        (["GET / HTTP/1.1"], 401),
        (["GET / HTTP/1.1", "Authorization: Bearer {token}"], 404),
        (["GET /blobs/{other} HTTP/1.1", "{auth}", "Range: bytes=0-9"], 404),
        (["GET /blobs/{digest}/../../etc/passwd HTTP/1.1", "{auth}", "Range: bytes=0-9"], 404),
        (["PUT /blobs/{digest} HTTP/1.1", "{auth}", "Range: bytes=0-9"], 404),
        (["GET /blobs/{digest} HTTP/1.1", "{auth}"], 400),
        (["GET /blobs/{digest} HTTP/1.1", "{auth}", "Range: bytes=0-9,20-30"], 400),
        (["GET /blobs/{digest} HTTP/1.1", "{auth}", "Range: bytes=-5"], 400),
        (["GET /blobs/{digest} HTTP/1.1", "{auth}", "Range: bytes=0-{size}"], 416),
        (["GET /blobs/{digest} HTTP/1.1", "{auth}", "Range: bytes=9-8"], 416),
        (["GET /blobs/{digest} HTTP/1.1", "{auth}", "Range: bytes=1-3"], 206),
    ],
)
def test_the_source_gives_ranges_of_listed_blobs_to_the_holder_of_the_token(
    lines: list[str], status: int, wanted: WantedBlob
) -> None:
    words = {
        "digest": wanted.digest,
        "other": Digest.of(b"not listed"),
        "token": TOKEN,
        "auth": f"Authorization: Bearer {TOKEN}",
        "size": wanted.size,
    }
    with listening(source_of([wanted]).serve) as port:
        answer = ask(port, *(line.format(**words) for line in lines))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    body = answer.partition(b"\r\n\r\n")[2]
    assert body == (wanted.source.read_bytes()[1:4] if status == 206 else b"")


def test_a_stranger_that_says_nothing_is_let_go(
    wanted: WantedBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "STRANGER_SECONDS", 0.5)
    with (
        listening(source_of([wanted]).serve) as port,
        socket.create_connection(("127.0.0.1", port), 5) as slow,
    ):
        began = time.monotonic()
        assert ends(lambda: slow.sendall(b"G"), 0.1), "a byte now and then does not help"
        assert time.monotonic() - began < 5


def test_a_request_without_end_is_let_go(wanted: WantedBlob) -> None:
    with (
        listening(source_of([wanted]).serve) as port,
        socket.create_connection(("127.0.0.1", port), 5) as sock,
    ):
        assert ends(lambda: sock.sendall(bytes(1 << 16)))


def test_a_wrong_token_pulls_nothing(wanted: WantedBlob) -> None:
    with listening(source_of([wanted]).serve) as port:
        answer = pulled(job(port, [wanted], token="wrong"))
    assert answer["error"] == "the answer is 'HTTP/1.1 401 Unauthorized'"
    assert answer["stored"] == {wanted.target: 0}


def test_a_blob_that_is_not_listed_ends_the_pull_and_the_others_stay(
    tmp_path: Path, wanted: WantedBlob
) -> None:
    first = blob(tmp_path, 1000, seed=7)
    with listening(source_of([first]).serve) as port:
        answer = pulled(job(port, [first, wanted], connections=1, ahead=1))
    assert "404" in answer["error"]
    assert whole(first)
    assert answer["stored"][wanted.target] == 0


@pytest.mark.parametrize(
    "lie",
    [
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-65535/9\r\nContent-Length: 65536\r\n\r\n",
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-65535/%d\r\nContent-Length: 65531\r\n\r\n",
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-65535/%d\r\nContent-Length: 99999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n",
        b"x" * 9000,
    ],
)
def test_an_answer_with_a_lying_length_ends_the_pull(lie: bytes, wanted: WantedBlob) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall((lie.replace(b"%d", b"%d" % wanted.size)) + bytes(1000))
        with suppress(OSError):
            sock.recv(1)

    with listening(serve) as port:
        answer = pulled(job(port, [wanted]))
    assert answer["error"].startswith("the answer ")
    assert Path(wanted.target).stat().st_size == 0


def test_our_file_that_was_cut_ends_the_pull(wanted: WantedBlob) -> None:
    with wanted.source.open("r+b") as file:
        file.truncate(1_000_000)
    with listening(source_of([wanted]).serve) as port:
        answer = pulled(job(port, [wanted]))
    assert answer["error"]
    assert answer["stored"][wanted.target] <= 1_000_000


@pytest.mark.parametrize("seed", range(3))
def test_one_send_in_a_hundred_is_a_reset_and_every_byte_arrives(seed: int, tmp_path: Path) -> None:
    wanted, chance, resets = blob(tmp_path, 20 << 20), random.Random(seed), []
    ours = source_of([wanted])

    def serve(sock: socket.socket) -> None:
        resets.append(1)
        ours.serve(Breaking(sock, chance, 0.01))

    with listening(serve) as port:
        answer = pulled(job(port, [wanted]))
    assert answer["error"] == ""
    assert whole(wanted)
    assert len(resets) > 4, "no connection broke"


def test_a_cut_leaves_a_part_to_go_on_with(tmp_path: Path) -> None:
    wanted = blob(tmp_path, 20 << 20)
    ours, cut, open_ones = source_of([wanted]), threading.Event(), []

    def serve(sock: socket.socket) -> None:
        open_ones.append(sock)
        if cut.is_set():
            reset(sock)
            return
        ours.serve(sock)

    def progress(count: int) -> None:
        if ours.sent > 10 << 20 and not cut.is_set():
            cut.set()
            for sock in open_ones:
                sock.shutdown(socket.SHUT_RDWR)

    ours._progress = progress
    with listening(serve) as port:
        answer = pulled(job(port, [wanted]))
    assert answer["error"]
    there = answer["stored"][wanted.target]
    assert Path(wanted.target).stat().st_size == there
    # 4 connections that ask for 2 segments ahead
    assert ours.sent - there <= 8 * (1 << 16) + 4 * (1 << 16)
    again = WantedBlob(wanted.digest, wanted.source, wanted.target, wanted.size, there)
    ours = source_of([again])
    with listening(ours.serve) as port:
        assert pulled(job(port, [again]))["error"] == ""
    assert whole(wanted)
    assert ours.sent == wanted.size - there


def test_two_pulls_of_one_blob_follow_each_other(wanted: WantedBlob) -> None:
    ours = source_of([wanted])
    slow = threading.Lock()

    def progress(_: int) -> None:
        with slow:
            time.sleep(0.005)

    ours._progress = progress
    answers = []
    with listening(ours.serve) as port:
        threads = [
            threading.Thread(target=lambda: answers.append(pulled(job(port, [wanted]))))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer["error"] for answer in answers] == ["", ""]
    assert whole(wanted)


def test_a_loopback_with_ipv6_alone_will_do(wanted: WantedBlob) -> None:
    with listening(source_of([wanted]).serve, "::1") as port:
        assert pulled(job(port, [wanted]))["error"] == ""
    assert whole(wanted)


def test_a_port_that_nobody_has_is_given_up_soon(wanted: WantedBlob) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    assert pulled(job(port, [wanted]))["error"] == "Connection refused"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("target", ["/dev/full", "no/folder/x.part"])
def test_a_part_that_cannot_be_written_is_named(
    target: str, tmp_path: Path, wanted: WantedBlob
) -> None:
    path = target if target.startswith("/") else str(tmp_path / target)
    wanted = WantedBlob(wanted.digest, wanted.source, path, wanted.size)
    with listening(source_of([wanted]).serve) as port:
        answer = pulled(job(port, [wanted]))
    assert answer["disk"] == path
    assert answer["error"] in ("No space left on device", "No such file or directory")

"""What links to real devices do: they fall silent, are cut, and other programs print into them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.link import relay, session
from edgekit.fleet.link.remote import SshRemote
from tests.harness.proxy import Proxy
from tests.harness.ssh_account import Login, logged_in

pytestmark = pytest.mark.timeout(120)

PLAIN = 'exec sh -c "$SSH_ORIGINAL_COMMAND"'


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """The account; each test says what its login does."""
    with logged_in(tmp_path_factory.mktemp("account")) as login:
        yield login


def connected() -> closing[SshRemote]:
    return closing(SshRemote("device"))


@pytest.fixture
def proxy(device: Login) -> Iterator[Proxy]:
    proxy = Proxy(device.server.port)
    device.runs(PLAIN)
    device.by_port(proxy.port)
    yield proxy
    device.by_port(device.server.port)
    proxy.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> float:
    """Silence is found within this many seconds."""
    text = session.RELAY.read_text("utf-8")
    assert "BEAT_SECONDS = 5.0" in text
    (tmp_path / "relay.py").write_text(text.replace("BEAT_SECONDS = 5.0", "BEAT_SECONDS = 0.1"))
    monkeypatch.setattr(session, "RELAY", tmp_path / "relay.py")
    monkeypatch.setattr(session, "SILENT_SECONDS", 1.5)
    return 1.5


def verb(remote: SshRemote, _: Path) -> None:
    remote.run(("sleep", "60"))


def transfer(remote: SshRemote, source: Path) -> None:
    remote.append(source, "/dev/null", 0, lambda _: None)


@pytest.mark.parametrize("work", [verb, transfer])
def test_a_silent_link_ends_a_push_once_and_with_its_reason(
    work: Callable[[SshRemote, Path], None], proxy: Proxy, quick: float, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(1 << 28)
    with connected() as remote:
        assert remote.run(("true",)).code == 0
        timer = threading.Timer(0.3, proxy.fall_silent)
        timer.start()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"is gone|broke off") as first:
            work(remote, source)
        assert "the link is silent: nothing came for 1.5 s" in first.value.why
        assert time.monotonic() - began < quick + 8
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="is gone") as again:
            remote.run(("true",))
        assert again.value.why == first.value.why
    assert time.monotonic() - began < 5, "nothing waits for a dead link"


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_link_that_falls_silent_during_the_login_is_no_slow_login(
    seconds: float, proxy: Proxy, device: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOGIN_SECONDS", 2.0)
    monkeypatch.setattr(session, "ANSWER_SECONDS", 1.0)
    device.runs("exec sleep 20")
    with connected() as remote:
        monkeypatch.setattr("edgekit.fleet.link.remote.CONNECT_SECONDS", 1.0)
        if not seconds:
            proxy.fall_silent()
        threading.Timer(seconds, proxy.fall_silent).start()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"is gone|opens no session") as raised:
            remote.run(("true",))
        assert time.monotonic() - began < 10
    assert re.search("the link is silent|Timeout opening channel", raised.value.why)


def test_sshd_that_starts_nothing_is_a_silent_link(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ANSWER_SECONDS", 1.0)
    with connected() as remote:
        opened = remote._connection.transport.open_session
        monkeypatch.setattr(
            remote._connection.transport, "open_session", lambda **told: silently(opened(**told))
        )

        def silently(channel: object) -> object:
            proxy.fall_silent()
            return channel

        with pytest.raises(UnreachableError, match="is gone") as raised:
            remote.run(("true",))
    assert "the link is silent" in raised.value.why


def test_a_link_that_is_cut_ends_a_push_at_once(proxy: Proxy, device: Login) -> None:
    with connected() as remote:
        assert remote.run(("true",)).code == 0
        threading.Timer(0.3, proxy.close).start()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="is gone"):
            remote.run(("sleep", "60"))
        assert time.monotonic() - began < 10


def test_a_relay_that_is_killed_is_said_to_be(device: Login) -> None:
    device.runs(PLAIN)
    with connected() as remote:
        with pytest.raises(UnreachableError, match="is gone") as raised:
            remote.run(("sh", "-c", "kill -9 $PPID; sleep 60"))
        assert "the program that runs our verbs there ended with" in raised.value.why


def test_a_program_that_prints_into_the_session_is_said_to(device: Login) -> None:
    device.runs(f"(sleep 2; echo Broadcast message) & {PLAIN}")
    with connected() as remote, pytest.raises(UnreachableError, match="is gone") as raised:
        remote.run(("sleep", "30"))
    assert "prints into the session" in raised.value.why


def test_a_relay_without_a_controller_ends_and_with_it_the_lease(tmp_path: Path) -> None:
    text = (
        Path(relay.__file__).read_text("utf-8").replace("BEAT_SECONDS = 5.0", "BEAT_SECONDS = 0.1")
    )
    (tmp_path / "relay.py").write_text(
        text.replace("SILENT_SECONDS = 100.0", "SILENT_SECONDS = 1.0")
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "relay.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    try:
        for _ in range(10):  # as long as it hears something, it stays
            process.stdin.write(relay.HEAD.pack(relay.MAGIC, b"P", 0))
            process.stdin.flush()
            time.sleep(0.2)
        assert process.poll() is None
        assert process.wait(10) == 1
    finally:
        process.kill()
        process.stdin.close()


def test_bytes_that_cannot_be_stored_are_refused_before_all_are_sent(
    device: Login, tmp_path: Path
) -> None:
    device.runs(PLAIN)
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(1 << 28)
    counts: list[int] = []
    with connected() as remote:
        with pytest.raises(EdgekitError, match="cannot be written") as raised:
            remote.append(source, "/dev/full", 0, counts.append)
        assert "No space left" in raised.value.why
        assert sum(counts) < 1 << 26
        assert remote.run(("echo", "on")).stdout == b"on\n", "the session goes on"

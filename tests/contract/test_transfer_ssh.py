"""A device's pull through a real sshd: where it works, where not, and who is turned away."""

from __future__ import annotations

import base64
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import UnreachableError
from edgekit.fleet.facts import PROBE
from edgekit.fleet.link import remote as remote_module
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.ssh.burst import BurstPacketizer
from edgekit.fleet.transfer import bring, chacha, source
from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.reverse import MOST_CHANNELS, NoForwardingError, listening
from edgekit.fleet.transfer.source import BlobSource
from edgekit.fleet.transfer.values import WantedBlob
from tests import tools
from tests.harness.proxy import Proxy
from tests.harness.pulling import TOKEN, blob, job, pulled, whole

pytestmark = pytest.mark.timeout(120)


@contextmanager
def device(folder: Path, config: str = "", key: str = "", port: int = 0) -> Iterator[tools.Sshd]:
    """An sshd which `SshRemote("device")` reaches, by `port` if that is given."""
    (folder / "sshd").mkdir(parents=True)
    with tools.sshd(folder / "sshd", config) as server, pytest.MonkeyPatch.context() as patch:
        keys = server.folder / "authorized_keys"
        keys.write_text(key + keys.read_text())
        (folder / "home" / ".ssh").mkdir(mode=0o700, parents=True)
        patch.setenv("HOME", str(folder / "home"))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        reach(folder, server, port or server.port)
        yield server


def reach(folder: Path, server: tools.Sshd, port: int) -> None:
    """From now on ssh connects to this port."""
    known = folder / f"known_hosts.{port}"
    text = server.known_hosts.read_text()
    known.write_text(text.replace(f"]:{server.port} ", f"]:{port} "))
    (folder / "home" / ".ssh" / "config").write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n"
        f"  IdentityFile {server.identity}\n  UserKnownHostsFile {known}\n"
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.Sshd]:
    with device(tmp_path_factory.mktemp("device")) as server:
        yield server


def test_a_device_pulls(here: tools.Sshd, tmp_path: Path) -> None:
    wanted = blob(tmp_path, 30 << 20)
    with closing(SshRemote("device")) as remote:
        assert remote.bring([wanted], lambda _: None) == ""
    assert whole(wanted)


def test_a_pull_outlives_new_keys(
    here: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BurstPacketizer, "REKEY_BYTES", 5 << 20)
    wanted, keys = blob(tmp_path, 30 << 20), list[bytes]()

    with closing(SshRemote("device")) as remote:
        transport = remote._connection.transport
        assert remote.bring([wanted], lambda _: keys.append(transport.H)) == ""
    assert whole(wanted)
    assert len(set(keys)) > 2


def test_a_device_that_speaks_no_gcm_pulls(tmp_path: Path) -> None:
    wanted = blob(tmp_path, 5 << 20)
    with device(tmp_path / "ctr", "Ciphers aes256-ctr\n"), closing(SshRemote("device")) as remote:
        assert remote.bring([wanted], lambda _: None) == ""
    assert whole(wanted)


def test_a_device_without_aes_pulls_with_chacha20(
    here: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = blob(tmp_path, 30 << 20)
    monkeypatch.setattr(remote_module, "listening", pytest.fail)
    with closing(SshRemote("device")) as remote:
        assert remote.bring([wanted], lambda _: None, aes=False) == ""
    assert whole(wanted)


def test_where_openssh_does_not_get_in_ours_does(
    here: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = blob(tmp_path, 3 << 20)
    problems = []
    real = chacha._port

    def port(process: Any) -> int:
        try:
            return real(process)
        except NoForwardingError as error:
            problems.append(str(error))
            raise

    monkeypatch.setattr(chacha, "_port", port)
    for cipher, why in (("none", "Bad SSH2 cipher spec"), (chacha.CIPHERS, "verification failed")):
        monkeypatch.setattr(chacha, "CIPHERS", cipher)
        with closing(SshRemote("device")) as remote:
            key = remote._connection.transport.get_remote_server_key()
            if cipher != "none":  # the second connection reaches a host with another key
                other = base64.b64encode(bytes(key.asbytes()[:-4]) + b"evil").decode()
                monkeypatch.setattr(type(key), "get_base64", lambda _, text=other: text)
            assert remote.bring([wanted], lambda _: None, aes=False) == ""
        assert whole(wanted)
        assert why in problems.pop()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("AllowTcpForwarding no\n", ""),
        ("AllowTcpForwarding local\n", ""),
        ("PermitListen none\n", ""),
        ("DisableForwarding yes\n", ""),
        ("", "restrict "),
        ("", "no-port-forwarding "),
        ("", 'permitlisten="127.0.0.1:8080" '),
    ],
)
def test_without_forwarding_the_bytes_go_through_the_session(
    config: str, key: str, tmp_path: Path
) -> None:
    wanted = blob(tmp_path, 3 << 20)
    with device(tmp_path / "device", config, key), closing(SshRemote("device")) as remote:
        why = remote.bring([wanted], lambda _: None)
    assert why == "its sshd forwards nothing (TCP forwarding request denied)"
    assert whole(wanted)


def test_a_device_that_cannot_run_the_pull_gets_its_bytes_all_the_same(
    here: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = blob(tmp_path, 3 << 20, 1 << 20)
    broken = tmp_path / "pull.py"
    monkeypatch.setattr(bring, "PULL", broken)
    for text, why in (("import nothing", "it runs no pull: .*nothing"), ("", "ended with 0")):
        broken.write_text(text)
        with closing(SshRemote("device")) as remote:
            assert re.search(why, remote.bring([wanted], lambda _: None))
        assert whole(wanted)


def test_a_pull_that_breaks_off_goes_on_through_the_session(
    here: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, counts = blob(tmp_path, 20 << 20), list[int]()
    real = BlobSource._send

    def send(self: BlobSource, *told: object) -> None:
        if self.sent > 10 << 20:
            raise source.BrokenError
        real(self, *told)  # type: ignore[arg-type]  # its own words

    monkeypatch.setattr(BlobSource, "_send", send)
    with closing(SshRemote("device")) as remote:
        why = remote.bring([wanted], counts.append)
    assert why == "its pull through the forwarded port ended: it was closed"
    assert whole(wanted)
    assert sum(counts) == wanted.size


def test_strangers_on_the_loopback_get_nothing_and_stop_nobody(
    here: tools.Sshd, tmp_path: Path
) -> None:
    wanted = blob(tmp_path, 3 << 20)
    with closing(SshRemote("device")) as remote:
        remote.run(("true",))
        ours = BlobSource([wanted], TOKEN, Cap(), lambda _: None)
        with listening(remote._connection.transport, ours) as listener:
            silent = [
                socket.create_connection(("127.0.0.1", listener.port), 5)
                for _ in range(MOST_CHANNELS - 8)
            ]
            with socket.create_connection(("127.0.0.1", listener.port), 5) as stranger:
                stranger.sendall(f"GET /blobs/{wanted.digest} HTTP/1.1\r\n\r\n".encode())
                assert stranger.recv(100).startswith(b"HTTP/1.1 401 ")
                assert stranger.recv(100) == b""
            assert pulled(job(listener.port, [wanted]))["error"] == ""
            more = [
                socket.create_connection(("127.0.0.1", listener.port), 5)
                for _ in range(MOST_CHANNELS)
            ]
            for one in more[8:]:
                one.settimeout(5)
                assert one.recv(1) == b"", "more than the bound are turned away"
            for one in silent + more:
                one.close()
        assert whole(wanted)
        time.sleep(0.2)
        with pytest.raises(OSError):  # noqa: PT011  # refused
            socket.create_connection(("127.0.0.1", listener.port), 5)


def test_the_listener_is_on_the_loopback_alone(here: tools.Sshd, tmp_path: Path) -> None:
    with closing(SshRemote("device")) as remote:
        remote.run(("true",))
        ours = BlobSource([], TOKEN, Cap(), lambda _: None)
        with listening(remote._connection.transport, ours) as listener:
            found = [
                line.split()[1].rpartition(":")[0]
                for name in ("/proc/net/tcp", "/proc/net/tcp6")
                if Path(name).exists()
                for line in Path(name).read_text().splitlines()[1:]
                if line.split()[1].endswith(f":{listener.port:04X}") and line.split()[3] == "0A"
            ]
    assert found
    assert set(found) <= {"0100007F", "00000000000000000000000001000000"}


def test_the_token_is_on_no_command_line(
    here: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: TOKEN)
    wanted, lines = blob(tmp_path, 8 << 20), set[str]()

    def look(_: int) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.add(path.read_text())
            except OSError:
                continue

    with closing(SshRemote("device", cap=Cap(200))) as remote:
        assert not remote.bring([wanted], lambda count: look(count) if len(lines) < 5 else None)
    assert any("sys.stdin.buffer.read" in line for line in lines)  # the relay that forks the pull
    assert not any(TOKEN in line for line in lines)


def test_its_python_starts_once_for_probe_and_pull(here: tools.Sshd, tmp_path: Path) -> None:
    starts, python = tmp_path / "starts", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho >>{starts}\nexec python3 "$@"\n')
    python.chmod(0o755)
    wanted = blob(tmp_path, 2 << 20)
    with closing(SshRemote("device", str(python))) as remote:
        assert remote.run((str(python), "-", ""), PROBE.read_bytes()).code == 0
        assert remote.bring([wanted], lambda _: None) == ""
    assert whole(wanted)
    assert starts.read_text() == "\n"


def test_a_cap_holds_on_both_ways(here: tools.Sshd, tmp_path: Path) -> None:
    for number, size in enumerate((3 << 20, 1 << 19)):  # pulled, and appended
        wanted = blob(tmp_path, size, seed=number)
        with closing(SshRemote("device", cap=Cap(size * 8 / 1e6))) as remote:
            remote.run(("true",))
            began = time.monotonic()
            remote.bring([wanted], lambda _: None)
            assert time.monotonic() - began > 0.8
        assert whole(wanted)


def test_a_link_that_is_cut_leaves_a_part_to_go_on_with(tmp_path: Path) -> None:
    wanted, counts = blob(tmp_path, 40 << 20), list[int]()
    with device(tmp_path / "device") as server, closing(Proxy(server.port)) as proxy:
        reach(tmp_path / "device", server, proxy.port)
        with closing(SshRemote("device")) as remote:
            remote.run(("true",))

            def progress(count: int) -> None:
                counts.append(count)
                if sum(counts) > 20 << 20:
                    proxy.close()

            with pytest.raises(UnreachableError, match="the transfer to device broke off"):
                remote.bring([wanted], progress)
        sent = sum(counts)
        reach(tmp_path / "device", server, server.port)
        deadline = time.monotonic() + 30
        while True:  # what the dead push left is still being stored
            there = Path(wanted.target).stat().st_size
            time.sleep(0.5)
            if Path(wanted.target).stat().st_size == there or time.monotonic() > deadline:
                break
        # 8 segments of 1 MiB at most are asked for ahead; what was under way is lost in any case
        assert sent - there < 20 << 20
        assert there > 0
        again = WantedBlob(wanted.digest, wanted.source, wanted.target, wanted.size, there)
        counts.clear()
        with closing(SshRemote("device")) as remote:
            assert remote.bring([again], counts.append) == ""
    assert whole(wanted)
    assert sum(counts) == wanted.size - there


CHILD = """
import sys
from pathlib import Path
from edgekit.core.digest import Digest
from edgekit.fleet.facts import PROBE
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.ssh.burst import BurstPacketizer
from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.values import WantedBlob

source, target = sys.argv[1:]
blob = WantedBlob(Digest.of(b""), Path(source), target, Path(source).stat().st_size)
remote = SshRemote("device", cap=Cap(40))
try:
    remote.bring([blob], lambda count: print(count, flush=True))
except KeyboardInterrupt:
    sys.exit(3)
finally:
    remote.close()
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_controller_that_ends_leaves_a_part_to_go_on_with(
    ending: signal.Signals, here: tools.Sshd, tmp_path: Path
) -> None:
    wanted, counts = blob(tmp_path, 30 << 20), list[int]()
    with tools.interruptible():
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(wanted.source), wanted.target],
            stdout=subprocess.PIPE,
            text=True,
        )
    assert child.stdout
    sent = 0
    while sent < 4 << 20:
        sent += int(child.stdout.readline())
    child.send_signal(ending)
    child.communicate(timeout=30)
    assert child.returncode == (3 if ending == signal.SIGINT else -signal.SIGKILL)
    there = Path(wanted.target).stat().st_size
    assert there > 0
    again = replace(wanted, have=there)
    with closing(SshRemote("device")) as remote:  # waits for the lock of the pull that ends
        assert remote.bring([again], counts.append) == ""
    assert whole(wanted)


def test_two_devices_are_brought_blobs_at_once(here: tools.Sshd, tmp_path: Path) -> None:
    blobs = [blob(tmp_path / str(number), 10 << 20, seed=number) for number in range(4)]
    problems: list[str] = []

    def one(wanted: WantedBlob) -> None:
        with closing(SshRemote("device")) as remote:
            problems.append(remote.bring([wanted], lambda _: None))

    threads = [threading.Thread(target=one, args=(wanted,)) for wanted in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == ["", "", "", ""]
    assert all(map(whole, blobs))


def test_the_answer_of_a_pull_is_one_object(here: tools.Sshd, tmp_path: Path) -> None:
    wanted = blob(tmp_path, 1000)
    with closing(SshRemote("device")) as remote:
        done = remote.run(
            ("python3", "-I", "-c", bring.PULL.read_text("utf-8")),
            json.dumps(job(1, [wanted])).encode(),
        )
    answer = json.loads(done.stdout)
    assert answer == {"stored": {wanted.target: 0}, "error": "Connection refused", "disk": ""}

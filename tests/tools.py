"""Real programs the tests need: found, started on loopback, ended by their own process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Daemons lie outside an ordinary user's PATH on Debian.
EXTRA_PATH = ("/usr/sbin", "/usr/local/sbin", "/sbin")

PACKAGES = {
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_rr": "mosquitto-clients",
    "mosquitto_pub": "mosquitto-clients",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "ssh-agent": "openssh-client",
    "ssh-add": "openssh-client",
    "skopeo": "skopeo",
    "docker-registry": "docker-registry",
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "arch-test": "arch-test",
    "ip": "iproute2",
    "nft": "nftables",
    "faketime": "faketime",
    "node": "nodejs",
    "npm": "npm",
    "chromium": "chromium",
    "systemd-analyze": "systemd",
    "strace": "strace",
    "tcsh": "tcsh",
    "fish": "fish",
    "zsh": "zsh",
    "bash": "bash",
    "man": "man-db",
    "promtool": "prometheus",
    "busybox": "busybox",
    "tmux": "tmux",
}


def missing() -> list[str]:
    """Packages of the tools that are not installed."""
    return sorted({package for tool, package in PACKAGES.items() if _which(tool) is None})


def have(tool: str) -> bool:
    """Whether a program is installed."""
    return _which(tool) is not None


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=os.pathsep.join((os.environ.get("PATH", ""), *EXTRA_PATH)))


def find(tool: str) -> str:
    """The program's path; the test fails, naming the package, when it is not installed."""
    path = _which(tool)
    if path is None:
        pytest.fail(f"{tool} is not installed: install the package {PACKAGES[tool]}")
    return path


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def connect(port: int) -> None:
    """Connect and let go; OSError when nothing listens."""
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def wait_for_port(port: int, process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """Wait until something accepts connections, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended with {process.returncode} before it listened"
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port} after {seconds:g} s")


def eventually(check: Callable[[], object], seconds: float = 30.0, what: str = "it") -> None:
    """Wait until something is true, or fail."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


@contextmanager
def interruptible() -> Iterator[None]:
    """What is started in this block hears Ctrl-C and a hangup.

    A shell starts what it runs in the background with SIGINT ignored, as `nohup` does with SIGHUP;
    that is inherited across execve(2), while a handler of ours becomes the default (signal(7)).
    """
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@dataclass
class MosquittoBroker:
    """A real Mosquitto that a test may stop, kill and start again on the same port."""

    folder: Path
    port: int = field(default_factory=free_port)
    kind: str = "mosquitto"
    websocket_port: int = 0  # of a second listener; 0: none
    more_config: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it listens."""
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "persistence false\nmax_packet_size 1048576\n"
            f"log_dest file {self.folder / 'mosquitto.log'}\n{self.more_config}"
        )
        with config.open("a") as file:
            if os.geteuid() == 0:
                file.write("user root\n")
            if self.websocket_port:
                file.write(f"listener {self.websocket_port} 127.0.0.1\nprotocol websockets\n")
        self.process = subprocess.Popen([find("mosquitto"), "-c", str(config)])
        wait_for_port(self.port, self.process)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    def stop(self, *, kill: bool = False) -> None:
        """End it, politely or with SIGKILL."""
        if self.process is not None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
            self.process.wait(10)
            self.process = None


@contextmanager
def mosquitto(
    folder: Path, websocket_port: int = 0, more_config: str = ""
) -> Iterator[MosquittoBroker]:
    """A Mosquitto for the length of a block."""
    broker = MosquittoBroker(folder, websocket_port=websocket_port, more_config=more_config)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@dataclass(frozen=True)
class Sshd:
    """A real sshd on loopback that logs the test's own user in with a key."""

    folder: Path
    port: int
    identity: Path
    known_hosts: Path
    host_key: Path


def sshd_files(folder: Path, more_config: str = "") -> tuple[Sshd, Path]:
    """Keys and the configuration of an sshd that does not run yet."""
    folder.chmod(0o700)
    keygen = find("ssh-keygen")
    host_key, identity = folder / "host_key", folder / "id_ed25519"
    for path in (host_key, identity):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    (folder / "authorized_keys").write_bytes(identity.with_suffix(".pub").read_bytes())
    port = free_port()
    public = host_key.with_suffix(".pub").read_text().split()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    config = folder / "sshd_config"
    config.write_text(
        f"{more_config}Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
        f"PidFile {folder / 'sshd.pid'}\nAuthorizedKeysFile {folder / 'authorized_keys'}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "MaxSessions 1\nMaxStartups 50\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's privilege separation folder
    return Sshd(folder, port, identity, known_hosts, host_key), config


@contextmanager
def sshd(folder: Path, more_config: str = "") -> Iterator[Sshd]:
    """An sshd for the length of a block; it runs as the user of the tests, root or not.

    It offers no more than a push needs: one session at a time, no sftp.
    """
    made, config = sshd_files(folder, more_config)
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen(
        [find("sshd"), "-D", "-e", "-f", str(config)], stdout=log, stderr=log
    )
    try:
        wait_for_port(made.port, process)
        yield made
    finally:
        process.terminate()
        process.wait(10)
        log.close()

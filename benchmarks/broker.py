"""A Mosquitto on loopback for the length of a block.

Not the embedded broker: there a second small message waits about 40 ms, as under Nagle's algorithm
with delayed ACKs (`accepted` came after 46 ms, with Mosquitto after 3), and a first token of less
than that would wait with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.core.config import BrokerConfig
from edgekit.errors import EdgekitError
from tests.pki import Authority

EXTRA_PATH = ("/usr/sbin", "/usr/local/sbin", "/sbin")  # daemons lie outside a user's PATH
START_SECONDS = 10.0


class Mosquitto:
    """A Mosquitto on a free port.

    Args:
        folder: takes its configuration and log.
        tls: whether it speaks TLS, and asks for a certificate.

    Raises:
        EdgekitError: it is not installed.
    """

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        program = shutil.which(
            "mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), *EXTRA_PATH))
        )
        if program is None:
            raise EdgekitError(
                "mosquitto is not installed", next_step="install the package mosquitto"
            )
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self.config = BrokerConfig("127.0.0.1", self.port)
        more = ""
        if tls:
            ca = Authority(folder)
            shown, ours = ca.issue("broker", hosts=("127.0.0.1",)), ca.issue("bench")
            self.config = BrokerConfig(
                "127.0.0.1",
                self.port,
                tls=True,
                ca_file=str(ca.cert),
                cert_file=str(ours.cert),
                key_file=str(ours.key),
            )
            more = (
                f"cafile {ca.cert}\ncertfile {shown.cert}\nkeyfile {shown.key}\n"
                "require_certificate true\n"
            )
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            f"persistence false\nlog_dest file {folder / 'mosquitto.log'}\n{more}"
            + ("user root\n" if os.geteuid() == 0 else "")
        )
        self._command = [program, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again on the same port; returns when it listens."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        _wait(self.port, self._process)

    def stop(self, *, kill: bool = False) -> None:
        """End it, politely or with SIGKILL."""
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(START_SECONDS)
            self._process = None


@contextmanager
def mosquitto(folder: Path, *, tls: bool = False) -> Iterator[BrokerConfig]:
    """Run Mosquitto for the length of a block, with TLS on request.

    Raises:
        EdgekitError: it is not installed, or does not start.
    """
    broker = Mosquitto(folder, tls=tls)
    broker.start()
    try:
        yield broker.config
    finally:
        broker.stop()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise EdgekitError("mosquitto does not listen", f"exit code {process.poll()}")

"""A listener that the installed OpenSSH opens, with ChaCha20: paramiko has AES alone.

A CPU without AES instructions (a Raspberry Pi 4) takes half of the time for ChaCha20. The
connection is a second one, to the host whose key was checked for the first.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.fleet.ssh.destination import Destination
from edgekit.fleet.ssh.openssh import login_words
from edgekit.fleet.transfer.reverse import ADDRESS, MOST_CHANNELS, Listener, NoForwardingError
from edgekit.fleet.transfer.source import BlobSource

START_SECONDS = 30.0
CIPHERS = "chacha20-poly1305@openssh.com"
_ALLOCATED = re.compile(rb"Allocated port ([0-9]+) for remote forward")


@contextmanager
def listening_by_openssh(
    destination: Destination, host_key: str, rtt_seconds: float, source: BlobSource
) -> Iterator[Listener]:
    """A listener on the device's loopback, whose connections `source` answers.

    Args:
        destination: what the user named.
        host_key: type and base64 of the host key to expect; no other is taken.
        rtt_seconds: of the way to the device.
        source: answers.

    Raises:
        NoForwardingError: OpenSSH does not log in, or has no port forwarded.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgekit-pull-") as name,
        login_words(destination) as login,
    ):
        folder = Path(name)
        (folder / "known").write_text(f"edgekit {host_key}\n", encoding="ascii")
        argv = [
            *("ssh", "-N", "-T", "-a", "-x", "-o", "BatchMode=yes", "-o", f"Ciphers={CIPHERS}"),
            *("-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=INFO"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=edgekit"),
            *("-o", f"UserKnownHostsFile={folder / 'known'}", "-o", "GlobalKnownHostsFile=none"),
            *("-o", "ControlPath=none", "-o", "ServerAliveInterval=20"),
            *("-R", f"{ADDRESS}:0:{folder / 'source'}", *login),
        ]
        with socket.socket(socket.AF_UNIX) as server:
            try:
                server.bind(str(folder / "source"))
            except OSError as error:  # the path of TMPDIR is too long for a socket
                raise NoForwardingError(str(error)) from error
            server.listen(MOST_CHANNELS)
            threading.Thread(target=_accept, args=(server, source), daemon=True).start()
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                yield Listener(_port(process), rtt_seconds)
            finally:
                process.terminate()
                process.wait()
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, source: BlobSource) -> None:
    with suppress(OSError):
        while True:
            one, _ = server.accept()
            threading.Thread(target=source.serve, args=(one,), daemon=True).start()


def _port(process: subprocess.Popen[bytes]) -> int:
    """The port that sshd chose, from what ssh says."""
    assert process.stderr
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    said = b""
    try:
        while not (found := _ALLOCATED.search(said)):
            data = os.read(process.stderr.fileno(), 4096)
            if not data:
                text = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise NoForwardingError(text or "ssh ended")
            said += data
    finally:
        timer.cancel()
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
    return int(found[1])

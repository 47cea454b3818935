"""The way on which a device reaches our source: a listener on its loopback that sshd opens for us.

The listener lives as long as the push's SSH connection. sshd forwards each connection to us as a
channel; paramiko's own tunnels copy 1 KiB at a time, so ours pump them (`source.BlobSource.serve`).
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import paramiko

from edgekit.fleet.ssh.burst import send_burst
from edgekit.fleet.transfer.source import BlobSource

# Both families, and loopback alone whatever GatewayPorts says: other origins are turned away here
ADDRESS = "localhost"
MOST_CHANNELS = 32  # at once, those of strangers included


class NoForwardingError(Exception):
    """The device's sshd forwards nothing to us."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The port on the device's loopback, and how long sshd took to answer."""

    port: int
    rtt_seconds: float


class _Bursts:
    """A channel as a stream that sends in bursts."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.recv = channel.recv
        self.settimeout = channel.settimeout
        self.close = channel.close

    def send(self, data: memoryview) -> int:
        """Send some of the bytes; how many."""
        return send_burst(self._channel, data)


class _Pump:
    """Gives each channel a thread that serves it, as long as the listener lives."""

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._channels: set[Any] = set()
        self._over = False

    def take(self, channel: Any, origin: tuple[str, int], _: tuple[str, int]) -> None:
        """Take a channel; paramiko calls this in the thread that reads the connection."""
        with self._lock:
            served = not self._over and len(self._channels) < MOST_CHANNELS and _is_near(origin[0])
            if served:
                self._channels.add(channel)
        if not served:
            channel.close()
            return
        threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: Any) -> None:
        try:
            with suppress(paramiko.SSHException):
                self._source.serve(_Bursts(channel))
        finally:
            with self._lock:
                self._channels.discard(channel)

    def end(self) -> None:
        """Serve nobody any more."""
        with self._lock:
            self._over = True
            channels = list(self._channels)
        for channel in channels:
            with suppress(OSError, EOFError, paramiko.SSHException):
                channel.close()


def _is_near(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def round_trip(transport: Any) -> float:
    """Seconds until the device's sshd has answered."""
    began = time.monotonic()
    transport.global_request("keepalive@openssh.com")  # it refuses, and that is an answer
    return time.monotonic() - began


@contextmanager
def listening(transport: Any, source: BlobSource) -> Iterator[Listener]:
    """A listener on the device's loopback, whose connections `source` answers.

    Args:
        transport: an authenticated transport of paramiko.
        source: answers.

    Raises:
        NoForwardingError: sshd refuses (AllowTcpForwarding, PermitListen, DisableForwarding, or
            `restrict` of the key).
    """
    pump = _Pump(source)
    began = time.monotonic()
    try:
        port = transport.request_port_forward(ADDRESS, 0, pump.take)
    except paramiko.SSHException as error:
        raise NoForwardingError(str(error)) from error
    rtt = time.monotonic() - began
    try:
        yield Listener(port, rtt)
    finally:
        pump.end()
        with suppress(OSError, EOFError, paramiko.SSHException):
            # Nobody waits for the answer: the link may be dead.
            transport.global_request("cancel-tcpip-forward", (ADDRESS, port), wait=False)

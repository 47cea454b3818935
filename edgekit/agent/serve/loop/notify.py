"""systemd's notification protocol, sd_notify(3): datagrams of `NAME=value` lines to a socket.

Without a socket in the environment nothing is sent.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

log = logging.getLogger(__name__)

MICROSECONDS = 1e6
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Reports the state of the agent to the service manager.

    Args:
        environment: has the manager's variables. They are removed: no child must inherit them.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        given = {name: environment.pop(name, "") for name in VARIABLES}
        address = given["NOTIFY_SOCKET"]
        # sd_notify(3): a path, or with @ a name in the abstract namespace
        self._address = address.replace("@", "\0", 1) if address.startswith(("/", "@")) else ""
        self._interval_seconds = math.inf
        if given["WATCHDOG_PID"] in ("", str(os.getpid())):  # sd_watchdog_enabled(3)
            with suppress(ValueError):
                self._interval_seconds = int(given["WATCHDOG_USEC"]) / MICROSECONDS / 2
        self._next_ping = -math.inf if self._interval_seconds < math.inf else math.inf
        self._status = ""
        self._ready = False
        self._complained = False

    def ready(self) -> None:
        """Report, once, that the agent answers prompts from now on."""
        if not self._ready:
            self._ready = self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service ends; only the supervisor knows."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Send one line of text for a person, when it changed."""
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def ping(self, now: float) -> None:
        """Ping the watchdog, at most twice in its interval; `now` is monotonic seconds."""
        if now >= self._next_ping and self._send("WATCHDOG=1"):
            self._next_ping = now + self._interval_seconds

    def _send(self, line: str) -> bool:
        """Send one line without waiting for the manager; return whether no repeat is needed."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(line.encode(), self._address)
        except OSError as error:
            if not self._complained:
                log.warning("%s cannot be sent to the service manager: %s", line, error)
            self._complained = True
            return False
        self._complained = False
        return True

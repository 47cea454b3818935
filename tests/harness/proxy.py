"""A TCP proxy of the tests: links that fall silent or are cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """A TCP proxy before an sshd, which can fall silent or cut the connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                one, _ = self._server.accept()
                two = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [one, two]
                for pair in ((one, two), (two, one)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()
        except OSError:
            return

    def _pass_on(self, from_: socket.socket, to: socket.socket) -> None:
        try:
            while (data := from_.recv(1 << 16)) and not self._silent.is_set():
                to.sendall(data)
        except OSError:
            return
        if not self._silent.is_set():
            to.close()

    def fall_silent(self) -> None:
        """No packet passes any more, and no side is told."""
        self._silent.set()

    def close(self) -> None:
        self._server.close()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

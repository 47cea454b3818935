"""A device with a door: real sshd with a forced command, the real agent behind it.

The service of the agent has a few lines (`tests/harness/box.py`), and `Updater` plays systemd.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from edgekit import data
from edgekit.agent.release.supervisor.choose import supervisor_of
from edgekit.core.digest import Digest
from edgekit.fleet.commands import relay_line
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.inventory import Device
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.link.session import HEAD, MAGIC
from tests.harness.box import Box, config_bytes, make_root
from tests.harness.ssh_account import Login, logged_in

DOOR = data.path("deploy/door/edgekit-door")


class Updater:
    """What systemd does for edgekit-updater.socket: one door for each connection."""

    def __init__(self, root: Path, address: Path) -> None:
        self._root, self._over = root, False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen()
        self.doors: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                there, _ = self._socket.accept()
                with there:
                    self.doors.append(
                        subprocess.Popen(
                            [sys.executable, "-I", str(DOOR), "serve", str(self._root)],
                            stdin=there.fileno(),
                            stdout=there.fileno(),
                            env={"PATH": os.defpath},
                        )
                    )

    def close(self) -> None:
        self._socket.close()
        for process in self.doors:
            process.kill()
            process.wait()


@dataclass
class Place:
    """A device with a door, and the account that reaches it."""

    box: Box
    login: Login
    address: Path
    updater: Updater
    good: Digest

    @contextmanager
    def driver(self, root: str = "") -> Iterator[DeviceDriver]:
        device = Device("ssh:device")
        with closing(SshRemote("device")) as remote:
            yield DeviceDriver("box", device, remote, root)

    def untouched(self) -> dict[str, object]:
        """Everything in ROOT that a request could change; the log and caches are none of it."""
        root = self.box.root.path
        found: dict[str, object] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if name.startswith(("run/", "log/")) or "__pycache__" in name:
                continue
            found[name] = path.read_bytes() if path.is_file() else path.is_symlink()
        return found

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A session at the socket itself, after the greeting."""
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(self.address))
            there.settimeout(20)
            line = relay_line("python3", 77, 3).encode()
            there.sendall(struct.pack(">I", len(line)) + line)
            assert there.recv(100) == b"4d %d.%d\n" % sys.version_info[:2]
            there.sendall(b"xyz")
            yield there


@contextmanager
def device_with_door(folder: Path, account: Path) -> Iterator[Place]:
    """A device on which one release is good, and which an account reaches by its door alone."""
    root = make_root(folder / "root")
    package = Path(zstandard.__file__).parent
    (root.trees / "runtime" / "zstandard").symlink_to(package)
    box = Box(root)
    good = box.stage("good first")
    assert box.activate(good, config_bytes())[0] == 0
    address = folder / "socket"
    updater = Updater(root.path, address)
    try:
        with logged_in(account) as login:
            login.runs(f"EDGEKIT_DOOR_SOCKET={address} exec {sys.executable} -I {DOOR}")
            yield Place(box, login, address, updater, good)
    finally:
        updater.close()
        supervisor_of(root).stop()


def facts_of(place: Place) -> Any:
    with place.driver() as driver:
        return driver.facts


def ask(there: socket.socket, argv: Any, stdin: bytes = b"", seconds: Any = 20) -> None:
    told = json.dumps({"argv": argv, "seconds": seconds}).encode()
    there.sendall(HEAD.pack(MAGIC, b"R", len(told)) + told)
    there.sendall(HEAD.pack(MAGIC, b"D", len(stdin)) + stdin)
    there.sendall(HEAD.pack(MAGIC, b"E", 0))


def told_by(there: socket.socket) -> dict[bytes, bytes]:
    """The answer to a request, by the kind of its frames; nothing if the door hung up."""
    reader, found = there.makefile("rb"), {}
    while b"C" not in found and len(head := reader.read(HEAD.size)) == HEAD.size:
        _, kind, length = HEAD.unpack(head)
        found[kind] = reader.read(length)
    return found


def write_part(there: socket.socket, path: Any, offset: Any, content: bytes = b"mine") -> Any:
    told = json.dumps({"path": path, "offset": offset}).encode()
    there.sendall(HEAD.pack(MAGIC, b"W", len(told)) + told)
    there.sendall(HEAD.pack(MAGIC, b"D", len(content)) + content + HEAD.pack(MAGIC, b"E", 0))
    return json.loads(told_by(there)[b"C"])


def ssh_to(place: Place, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    config = place.login.config
    return subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", *words],
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
    )

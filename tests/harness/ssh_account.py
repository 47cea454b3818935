"""An account on a real sshd that has little more than a shell, tar and Python."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.client import Final, Requester
from tests import tools
from tests.conftest import Project

PROGRAMS = ("sh", "tar", "python3", "env")
ROOT = 'it\'s a "$(id)" $HOME größe'  # below the account's home; nothing in it is special
FLEET = f"""[devices.box]
address = "ssh:box-alias"
root = '''~/{ROOT}'''
trial_seconds = {{}}
"""
PADDING_BYTES = 48 << 20


@dataclass
class Account:
    """A project with one device, `box`, which is an account behind a real sshd."""

    project: Project
    server: tools.Sshd
    home: Path  # of the controller, with .ssh/config
    root: Path  # ROOT on the device
    first: dict[str, object]  # what the first push printed

    def configure(self, **more: str) -> None:
        """Write ~/.ssh/config of the controller; keyword arguments replace its settings."""
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.server.port),
            "IdentityFile": str(self.server.identity),
            "UserKnownHostsFile": str(self.server.known_hosts),
        } | more
        lines = [f"  {name} {value}\n" for name, value in settings.items()]
        (self.home / ".ssh" / "config").write_text("Host box-alias\n" + "".join(lines))

    def answer(self, text: str = "What is the capital of France?") -> str:
        """Ask the device over MQTT."""
        with Requester(self.project.broker, "tester") as requester:
            messages = [{"role": "user", "content": text}]
            final = list(requester.ask("box", {"messages": messages, "max_tokens": 16}))[-1]
        assert isinstance(final, Final)
        return final.text

    def state(self) -> dict[str, object]:
        state: dict[str, object] = json.loads(self.project.edgekit("state", "box", "--json"))
        return state

    def shown_state(self) -> list[str]:
        return self.project.edgekit("state", "box").splitlines()

    def push(self) -> dict[str, int]:
        """Push the newest bundle, which must work."""
        pushed = json.loads(self.project.edgekit("push", "box", "--json"))["pushed"]
        assert len(pushed) == 1
        result: dict[str, int] = pushed[0]
        return result

    def blob(self, title: str) -> tuple[Path, str, int]:
        """Path on the device, hex digest and size of a file of the newest bundle."""
        digest = json.loads(self.project.edgekit("inspect", "--json"))["digest"]
        store = self.project.store / "blobs" / "sha256"
        manifest = json.loads((store / digest[7:]).read_bytes())
        layer = next(
            d
            for d in manifest["layers"]
            if d["annotations"]["org.opencontainers.image.title"] == title
        )
        name = layer["digest"][7:]
        return self.root / "blobs" / "sha256" / name, name, layer["size"]


def bare_shell(folder: Path, server: tools.Sshd) -> None:
    """Sessions of this sshd get a PATH with almost nothing in it, and a home of their own."""
    programs = folder / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        path = sys.executable if name == "python3" else shutil.which(name)
        assert path is not None, name
        (programs / name).symlink_to(Path(path).resolve())
    shell = folder / "session"
    shell.write_text(
        f'#!/bin/sh\nPATH={programs} HOME={folder} exec {programs}/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    shell.chmod(0o755)
    keys = server.folder / "authorized_keys"
    keys.write_text(f'command="{shell}" {keys.read_text()}')


@dataclass
class Login:
    """What an sshd runs for each command of `ssh device`, instead of the account's own shell."""

    home: Path  # of the account
    session: Path
    server: tools.Sshd
    config: Path  # ssh's, which knows the device

    def runs(self, script: str) -> None:
        """From now on this shell script, which finds the command in `$SSH_ORIGINAL_COMMAND`."""
        begin = f"#!/bin/sh\nunset SHLVL\nexport HOME={self.home}\ncd\n"
        self.session.write_text(f"{begin}{script}\n")

    def by_port(self, port: int) -> None:
        """From now on ssh connects to this port; the key of the host is the same."""
        known = self.server.known_hosts.with_name(f"known_hosts.{port}")
        text = self.server.known_hosts.read_text()
        known.write_text(text.replace(f"]:{self.server.port} ", f"]:{port} "))
        self.config.write_text(
            f"Host device\n  HostName 127.0.0.1\n  Port {port}\n"
            f"  IdentityFile {self.server.identity}\n  UserKnownHostsFile {known}\n"
        )


@contextmanager
def logged_in(folder: Path, more_config: str = "") -> Iterator[Login]:
    """An sshd whose sessions are a test's; `SshRemote("device")` reaches it within the block.

    It greets before the login, and gives no terminal.
    """
    home, ours = folder / "home", folder / "ours"
    home.mkdir()
    (ours / ".ssh").mkdir(mode=0o700, parents=True)
    (folder / "sshd").mkdir()
    session = folder / "session"
    session.touch(0o755)
    banner = folder / "banner"
    banner.write_text("Authorised use only!\n\x1b[31m" + 200 * "No trespassing.\n")
    more_config = f"{more_config}Banner {banner}\nPermitTTY no\nAllowTcpForwarding no\n"
    with tools.sshd(folder / "sshd", more_config) as server, pytest.MonkeyPatch.context() as patch:
        keys = server.folder / "authorized_keys"
        keys.write_text(f'command="{session}" {keys.read_text()}')
        login = Login(home, session, server, ours / ".ssh" / "config")
        login.by_port(server.port)
        patch.setenv("HOME", str(ours))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield login

"""Real sshds on loopback with host keys of several types, for the comparison with OpenSSH."""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import tools

# SHLVL keeps bash from reading ~/.bashrc, which may take half a second, in every session
_SSHD = """\
SetEnv SHLVL=3
ListenAddress 127.0.0.1:{port}
ListenAddress [::1]:{port}
{keys}
PidFile {folder}/{name}.pid
AuthorizedKeysFile {folder}/authorized_keys
TrustedUserCAKeys {folder}/ca.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
ExposeAuthInfo yes
MaxStartups 50
Subsystem sftp internal-sftp
"""


@dataclass
class World:
    """The servers, and the words by which a case names their ports and keys (`@PORT@`)."""

    folder: Path
    words: dict[str, str] = field(default_factory=dict)

    def fill(self, text: str, **more: str) -> str:
        """Put the words into a text."""
        for name, value in {**self.words, **more}.items():
            text = text.replace(f"@{name}@", value)
        return text


def hashed(name: str) -> str:
    """A name as `ssh-keygen -H` writes it."""
    salt = hashlib.sha1(name.encode()).digest()
    parts = (salt, hmac.digest(salt, name.encode(), "sha1"))
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in parts)


def _keygen(*arguments: str | Path) -> None:
    argv = [tools.find("ssh-keygen"), "-q", *map(str, arguments)]
    subprocess.run(argv, check=True, capture_output=True)


def _public(path: Path) -> str:
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def _make_keys(folder: Path) -> dict[str, str]:
    kinds = {
        "ed": "ed25519", "ecdsa": "ecdsa", "rsa": "rsa", "other_ed": "ed25519",
        "other_rsa": "rsa", "ca": "ed25519", "rsa_ca": "rsa", "id": "ed25519",
        "id_two": "ecdsa", "no_id": "ed25519", "certified": "ed25519",
    }  # fmt: skip
    for name, kind in kinds.items():
        bits = ("-b", "2048") if kind == "rsa" else ()
        _keygen("-t", kind, *bits, "-N", "", "-C", name, "-f", folder / name)
    authorized = [_public(folder / name) for name in ("id", "id_two")]
    (folder / "authorized_keys").write_text("\n".join(authorized) + "\n")
    return {name.upper(): _public(folder / name) for name in kinds}


def _certify(folder: Path) -> None:
    """Host certificates, right and wrong ones, and one of a user."""
    made = {
        "good": ("-h", "-n", "127.0.0.1,alias.example"),
        "elsewhere": ("-h", "-n", "other.example"),
        "expired": ("-h", "-n", "127.0.0.1", "-V", "20200101:20200102"),
        "future": ("-h", "-n", "127.0.0.1", "-V", "20400101:20400102"),
        "anyone": ("-h",),
    }
    for name, options in made.items():
        _keygen("-t", "ed25519", "-N", "", "-f", folder / name)
        _keygen("-s", folder / "ca", "-I", name, *options, folder / f"{name}.pub")
    for name, kind, how in (("rsacert", "rsa", "rsa-sha2-512"), ("ecdsacert", "ecdsa", "ssh-rsa")):
        _keygen("-t", kind, "-N", "", "-f", folder / name)
        _keygen("-s", folder / "rsa_ca", "-t", how, "-I", name, "-h", folder / f"{name}.pub")
    user = folder / "certified.pub"
    _keygen("-s", folder / "ca", "-I", "user", "-n", getpass.getuser(), user)


def _free_ports(count: int) -> list[int]:
    """Ports that are free on both families."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            four = stack.enter_context(socket.socket(socket.AF_INET))
            six = stack.enter_context(socket.socket(socket.AF_INET6))
            four.bind(("127.0.0.1", 0))
            port = four.getsockname()[1]
            try:
                six.bind(("::1", port))
            except OSError:
                continue
            found.append(port)
    return found


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """The servers and an agent, for the length of a block."""
    folder.chmod(0o700)
    words = _make_keys(folder)
    _certify(folder)
    servers = {
        "": ("ed", "ecdsa", "rsa"), "RSA": ("rsa",), "CERT": ("good",), "ELSEWHERE": ("elsewhere",),
        "EXPIRED": ("expired",), "FUTURE": ("future",), "ANYONE": ("anyone",),
        "RSACERT": ("rsacert",), "ECDSACERT": ("ecdsacert",),
    }  # fmt: skip
    ports = _free_ports(len(servers) + 1)
    with ExitStack() as stack:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for (name, keys), port in zip(servers.items(), ports, strict=False):
            words[f"{name}PORT"] = str(port)
            words |= {key.upper(): _public(folder / key) for key in keys}
            stack.enter_context(_server(folder, name or "plain", keys, port))
        words["NOPORT"] = str(ports[-1])
        words["AGENT"] = stack.enter_context(_agent(folder, "id_two"))
        words |= {f"{name.upper()}_FILE": str(folder / name) for name in _files()}
        words |= {"USER": getpass.getuser(), "FOLDER": str(folder)}
        yield World(folder, words)


def _files() -> tuple[str, ...]:
    return ("id", "id_two", "no_id", "certified", "ed", "rsa", "ca", "other_ed")


@contextmanager
def _server(folder: Path, name: str, keys: tuple[str, ...], port: int) -> Iterator[None]:
    lines = [f"HostKey {folder / key}" for key in keys]
    certificates = [folder / f"{key}-cert.pub" for key in keys]
    lines += [f"HostCertificate {path}" for path in certificates if path.exists()]
    config = folder / f"{name}.conf"
    config.write_text(_SSHD.format(port=port, keys="\n".join(lines), folder=folder, name=name))
    with (folder / f"{name}.log").open("wb") as log:
        argv = [tools.find("sshd"), "-D", "-e", "-f", str(config)]
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            tools.wait_for_port(port, process)
            yield
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def _agent(folder: Path, key: str) -> Iterator[str]:
    path = folder / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        tools.eventually(path.exists, 10, "the agent listens")
        environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        argv = ["ssh-add", "-q", str(folder / key)]
        subprocess.run(argv, env=environment, check=True, capture_output=True)
        yield str(path)
    finally:
        process.terminate()
        process.wait(10)

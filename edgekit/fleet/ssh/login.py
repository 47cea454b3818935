"""Which keys to log in with, in OpenSSH's order, and why a login fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentKey, AgentSSH
from paramiko.auth_strategy import AuthFailure, InMemoryPrivateKey

from edgekit.fleet.ssh.hostkeys import CERT, parse_key
from edgekit.fleet.ssh.passphrase import hint, unlock
from edgekit.fleet.ssh.settings import SshSettings

_ERRORS = (OSError, ValueError, TypeError, paramiko.SSHException, paramiko.pkey.UnknownKeyType)


class _AgentAt(AgentSSH):  # type: ignore[misc]  # paramiko has no types
    """An agent at a socket of our choice: paramiko's own reads SSH_AUTH_SOCK alone."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        self._connect(connection)


class Login(paramiko.AuthStrategy):  # type: ignore[misc]  # paramiko has no types
    """Logs in with keys as OpenSSH does: certificates, the agent's keys, then files.

    `notes` says after a failure which keys could not be used, and why.
    """

    def __init__(self, settings: SshSettings) -> None:
        super().__init__(ssh_config=None)
        self._settings = settings
        self._passed_over: dict[str, str] = {}
        self._locked: dict[str, None] = {}  # encrypted files, in their order
        self.tried = 0
        self.last: Any = None  # the key that was tried last: after a login, the one that let us in

    @property
    def notes(self) -> str:
        """Why keys were passed over, one after the other."""
        return "; ".join(self._passed_over.values())

    def takes_instead(self, error: Exception) -> list[str]:
        """What a server takes that takes no keys; empty: it takes keys, or does not say."""
        if not isinstance(error, AuthFailure):
            return []
        for tried in error.result:
            refused = tried.result
            if isinstance(refused, paramiko.BadAuthenticationType):
                return [] if "publickey" in refused.allowed_types else list(refused.allowed_types)
        return []

    def get_sources(self) -> Iterator[Any]:
        """Every key to try, the first one first."""
        allowed = self._settings.names("pubkeyacceptedalgorithms")
        for key in self._keys():
            kind = key.public_blob.key_type if key.public_blob else key.get_name()
            names = {kind, kind.replace("ssh-rsa", "rsa-sha2-512")}
            names.add(kind.replace("ssh-rsa", "rsa-sha2-256"))
            if allowed and not names & set(allowed):
                self._pass_over(kind, f"PubkeyAcceptedAlgorithms does not allow {kind}")
                continue
            self.tried += 1
            self.last = key
            yield InMemoryPrivateKey(self._settings.user, key)

    def _keys(self) -> Iterator[Any]:
        """sshconnect2.c, pubkey_prepare: certificates, the agent's keys, keys in files alone."""
        files = self._identity_files()
        blobs = {file: _public_blob(file) for file in files}
        agent = self._agent_keys()
        by_blob = {key.asbytes(): key for key in agent if not key.get_name().endswith(CERT)}
        certificates = self._paths("certificatefile")
        for path in certificates:
            yield from self._certified(path, files, by_blob)
        named = [key for blob in blobs.values() if blob and (key := by_blob.get(blob))]
        yield from named
        if not self._settings.yes("identitiesonly"):
            yield from (key for key in agent if key not in named)
        for file in files:
            if blobs[file] in by_blob:
                continue
            key = self._load(file)
            if key is None:
                continue
            yield key
            beside = Path(f"{file}-cert.pub")
            if certificates or not beside.is_file():
                continue
            certified = self._load(file)
            if certified is not None and self._attach(certified, str(beside)):
                yield certified
        for file in list(self._locked):  # nobody is asked while another key lets us in
            key = None if self._settings.yes("batchmode") else unlock(Path(file))
            if key is not None:
                self._passed_over.pop(file, None)
                key.public_blob = None
                yield key

    def _certified(self, path: str, files: list[str], by_blob: dict[bytes, Any]) -> Iterator[Any]:
        """A certificate of CertificateFile, with the private key that belongs to it."""
        agents = (AgentKey(key.agent, key.blob, key.comment) for key in by_blob.values())
        loaded = (self._load(file) for file in files)
        for key in (*agents, *loaded):
            if key is not None and self._attach(key, path):
                yield key
                return
        self._pass_over(path, f"no private key belongs to the certificate {path}")

    def _attach(self, key: Any, path: str) -> bool:
        try:
            blob = paramiko.pkey.PublicBlob.from_file(path)
            plain = _plain_key(blob)
        except _ERRORS:
            return False
        if plain != key.asbytes():
            return False
        key.public_blob = blob
        return True

    def _identity_files(self) -> list[str]:
        found = []
        told = self._settings.told("identityfile")
        for path in self._paths("identityfile"):
            if Path(path).is_file() or Path(f"{path}.pub").is_file():
                found.append(path)
            elif told:
                self._pass_over(path, f"{path} does not exist")
        return list(dict.fromkeys(found))

    def _paths(self, key: str) -> list[str]:
        values = [v for v in self._settings.values.get(key, ()) if v.lower() != "none"]
        return [self._settings.path(key, value) for value in values]

    def _agent_keys(self) -> list[Any]:
        told = self._settings.values.get("identityagent", ("SSH_AUTH_SOCK",))[0]
        if told.lower() == "none":
            return []
        if told == "SSH_AUTH_SOCK":
            path = os.environ.get("SSH_AUTH_SOCK", "")
        elif told.startswith("$") and not told.startswith("${"):
            path = os.environ.get(told[1:], "")
        else:
            path = self._settings.path("IdentityAgent", told)
        if not path:
            return []
        try:
            keys = list(_AgentAt(path).get_keys())
        except _ERRORS as error:
            if told != "SSH_AUTH_SOCK":
                self._pass_over(path, f"the agent at {path} does not answer: {error}")
            return []
        for key in keys:
            if key.get_name().endswith(CERT):
                key.public_blob = paramiko.pkey.PublicBlob(key.get_name(), key.blob)
        return keys

    def _load(self, file: str) -> Any:
        """A private key from a file; None where it cannot be used, with a note."""
        path = Path(file)
        try:
            found = path.stat()
            if found.st_uid == os.getuid() and found.st_mode & 0o077:
                why = f"others may read {file}, so it is not used: `chmod 600 {file}`"
                return self._pass_over(file, why)
            key = paramiko.PKey.from_path(path)
            least = int(self._settings.one("requiredrsasize", "1024"))
            if key.get_name() == "ssh-rsa" and key.get_bits() < least:
                return self._pass_over(file, f"{file} is shorter than RequiredRSASize {least}")
        except (paramiko.PasswordRequiredException, TypeError):
            self._locked[file] = None
            return self._pass_over(file, hint(path))
        except _ERRORS as error:
            return self._pass_over(file, f"{file} cannot be used: {error}")
        key.public_blob = None
        return key

    def _pass_over(self, what: str, why: str) -> None:
        self._passed_over[what] = why


def _plain_key(certificate: Any) -> bytes:
    """The key in a certificate, in wire form; empty for a type that paramiko does not have."""
    kind = certificate.key_type.removesuffix(CERT)
    for of_kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        if kind in of_kind.identifiers():
            return bytes(of_kind(data=certificate.key_blob).asbytes())
    return b""


def _public_blob(file: str) -> bytes | None:
    """The public key of an identity file: of the file beside it, or of the file itself."""
    for path in (Path(f"{file}.pub"), Path(file)):
        try:
            key = parse_key(path.read_text("utf-8", "surrogateescape").partition("\n")[0])
        except OSError:
            continue
        if key is not None:
            return key[1]
    try:
        blob: bytes = paramiko.PKey.from_path(file).asbytes()
    except _ERRORS:
        return None
    return blob

"""Opens a connection with fabric, to the host and with the checks that OpenSSH would use."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fabric
import paramiko
from paramiko.auth_strategy import AuthFailure

from edgekit.errors import EdgekitError, UnreachableError, UsageError
from edgekit.fleet.ssh.burst import BurstPacketizer
from edgekit.fleet.ssh.destination import Destination, parse_destination
from edgekit.fleet.ssh.hostkeys import CERT
from edgekit.fleet.ssh.login import Login
from edgekit.fleet.ssh.openssh import settings_of
from edgekit.fleet.ssh.settings import SshSettings
from edgekit.fleet.ssh.trust import ShownKey, check_host_key, offered_algorithms

CONNECT_SECONDS = 15
# For new keys, every 512 MiB: on a slow link the request waits behind megabytes of a transfer
REKEY_SECONDS = 600.0
MOST_JUMPS = 8
_PLAIN = (
    *("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("rsa-sha2-512", "rsa-sha2-256"),
)
HOST_ALGORITHMS = (*(name + CERT for name in _PLAIN), *_PLAIN)
"""The host key algorithms of paramiko, in OpenSSH's order."""

# Without a handler Python prints paramiko's warnings and tracebacks over our own errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _Transport(paramiko.Transport):  # type: ignore[misc]  # paramiko has no types
    """A transport that offers what the ssh configuration allows.

    It prefers AES-GCM: a third faster than paramiko's default, AES-CTR.
    """

    host_algorithms: tuple[str, ...] = HOST_ALGORITHMS

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """The host key algorithms; paramiko's own property puts certificates last."""
        return self.host_algorithms

    def allow_only(self, settings: SshSettings) -> None:
        """Take the algorithms away that the user's files do not allow.

        Raises:
            UsageError: none is left.
        """
        options = self.get_security_options()
        options.ciphers = sorted(options.ciphers, key=lambda cipher: "gcm" not in cipher)
        kinds = {"ciphers": "Ciphers", "digests": "MACs", "kex": "KexAlgorithms"}
        for ours, keyword in kinds.items():
            allowed = settings.names(keyword.lower())
            if not allowed or not settings.told(keyword.lower()):
                continue
            has = getattr(options, ours)
            left = [name for name in has if name in allowed]
            if not left:
                raise UsageError(
                    f"{settings.named}: {keyword} allows no algorithm that edgekit has",
                    f"allowed is {', '.join(allowed)}; edgekit has {', '.join(has)}",
                    "allow one of these for this host in the ssh configuration",
                )
            setattr(options, ours, left)


@dataclass
class _Way:
    """A connected socket to a host, and what is behind it."""

    sock: Any  # a socket, or a channel of the jump host
    address: str = ""  # of the peer, where it is reached directly and is not this machine
    process: subprocess.Popen[bytes] | None = None  # ProxyCommand
    errors: Any = None  # what ProxyCommand writes to its standard error


class _Checked(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """Judges every host key: the client is given no known_hosts, so it asks each time."""

    def __init__(self, settings: SshSettings, address: str) -> None:
        self._settings = settings
        self._address = address

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        certificate = key.public_blob
        check_host_key(
            self._settings,
            ShownKey(
                key.get_name(),
                key.asbytes(),
                key.get_bits(),
                certificate.key_type if certificate else "",
                certificate.key_blob if certificate else b"",
            ),
            self._address,
        )


class SshConnection(fabric.Connection):  # type: ignore[misc]  # fabric has no types
    """fabric's connection to one destination, opened as its ssh configuration says."""

    def __init__(self, settings: SshSettings, gateway: SshConnection | None = None) -> None:
        # An empty configuration: OpenSSH has read its files, and fabric's own may change the way.
        super().__init__(
            settings.host,
            user=settings.user,
            port=settings.port,
            gateway=gateway or False,  # None would let fabric look for one
            forward_agent=False,
            config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
        )
        self._settings = settings
        self._way: _Way | None = None
        self.public_key = ""  # line of authorized_keys that lets us in; empty for a certificate

    @property
    def settings(self) -> SshSettings:
        """What the ssh configuration says of this destination."""
        return self._settings

    def open(self) -> None:
        """Connect, check the host key and log in.

        Raises:
            UsageError: the configuration allows nothing that edgekit can do.
            UnreachableError: the host does not answer.
            VerificationError: its host key is unknown, has changed or is revoked.
            EdgekitError: it does not accept our SSH key.
        """
        if self.is_connected:
            return
        settings, login = self._settings, Login(self._settings)
        algorithms = offered_algorithms(settings, HOST_ALGORITHMS)

        def transport(*args: Any, **kwargs: Any) -> paramiko.Transport:
            made = _Transport(*args, packetizer_class=BurstPacketizer, **kwargs)
            made.host_algorithms = tuple(algorithms)
            made.clear_to_send_timeout = REKEY_SECONDS
            made.allow_only(settings)
            return made

        try:
            self._way = self._make_way()
            self.client.set_missing_host_key_policy(_Checked(settings, self._way.address))
            self.client.connect(
                settings.host,
                port=settings.port,
                username=settings.user,
                sock=self._way.sock,
                timeout=CONNECT_SECONDS,
                banner_timeout=CONNECT_SECONDS,
                auth_timeout=CONNECT_SECONDS,
                transport_factory=transport,
                auth_strategy=login,
            )
            self.transport = self.client.get_transport()
            if not self.transport.is_authenticated():
                raise paramiko.AuthenticationException("a key alone is not enough for it")
            if login.last is not None and not login.last.public_blob:
                self.public_key = f"{login.last.get_name()} {login.last.get_base64()}"
        except EdgekitError:
            self.close()
            raise
        except (OSError, EOFError, paramiko.SSHException) as error:
            failure = self._failure(error, login)
            self.close()
            raise failure from error

    def _failure(self, error: Exception, login: Login) -> EdgekitError:
        """What an exception of paramiko or of a socket means."""
        name, said = self._settings.named, _said(self._way)
        why = f"{error}{said}".strip()
        transport = self.client.get_transport()
        if isinstance(error, paramiko.AuthenticationException) or (
            transport is not None and transport.initial_kex_done
        ):
            return self._not_let_in(error, login)
        if isinstance(error, paramiko.SSHException) and not said:
            return UnreachableError(
                f"{name} does not speak SSH with us", why, "check its address and port"
            )
        return UnreachableError(
            f"{name} cannot be reached",
            f"{why} ({self._settings.host} port {self._settings.port})",
            "check that it is on, and its address in fleet.toml",
        )

    def _not_let_in(self, error: Exception, login: Login) -> EdgekitError:
        what = f"{self._settings.named} does not let us in as {self._settings.user}"
        takes = login.takes_instead(error)
        if takes:
            return EdgekitError(
                what,
                f"its sshd takes no keys, only {', '.join(takes)}; edgekit gives no password",
                "set `PubkeyAuthentication yes` in its sshd_config and add this machine's public "
                "key to the account",
            )
        why = f"authentication failed: {error}"
        if isinstance(error, AuthFailure):
            keys = f"{login.tried} key{'s' if login.tried > 1 else ''}"
            why = f"authentication failed with {keys}"
        if not login.tried:
            why = "authentication is not possible without a key"
        return EdgekitError(
            what,
            "; ".join(filter(None, (why, login.notes))),
            f"add this machine's public key to the account (`ssh-copy-id {self._settings.named}`), "
            "or set IdentityFile in ~/.ssh/config",
        )

    def _make_way(self) -> _Way:
        settings = self._settings
        if self.gateway:
            self.gateway.open()
            target = (settings.host, settings.port)
            channel = self.gateway.transport.open_channel(
                "direct-tcpip", target, ("", 0), timeout=CONNECT_SECONDS
            )
            return _Way(channel)
        command = settings.one("proxycommand")
        if command:
            return _through_command(settings, command)
        return _directly(settings)

    def close(self) -> None:
        """End the connection, its ProxyCommand and the connections to its jump hosts."""
        super().close()
        self.client.close()
        way, self._way = self._way, None
        if way is not None:
            with suppress(OSError, EOFError):
                way.sock.close()
            if way.process is not None:
                _end(way.process)
            if way.errors is not None:
                way.errors.close()
        if self.gateway:
            self.gateway.close()


def _directly(settings: SshSettings) -> _Way:
    """A TCP connection, with AddressFamily, BindAddress and ConnectTimeout."""
    families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
    family = families.get(settings.one("addressfamily").lower(), socket.AF_UNSPEC)
    seconds = float(settings.one("connecttimeout", str(CONNECT_SECONDS)))
    bind = settings.one("bindaddress")
    last: OSError | None = None
    try:
        found = socket.getaddrinfo(settings.host, settings.port, family, socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of a name is empty or too long
        raise OSError(f"{settings.host} is no name of a host: {error}") from error
    for kind, _, _, _, place in found:
        sock = socket.socket(kind, socket.SOCK_STREAM)
        try:
            if bind:
                own = socket.getaddrinfo(bind, 0, kind, socket.SOCK_STREAM)[0][4]
                sock.bind(own)
            sock.settimeout(seconds)
            sock.connect(place)
        except OSError as error:
            sock.close()
            last = error
            continue
        address = str(sock.getpeername()[0])
        local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        same = address == settings.host
        return _Way(sock, "" if local or same else address)
    raise last or OSError(f"{settings.host} has no address")


def _through_command(settings: SshSettings, command: str) -> _Way:
    """A socket to ProxyCommand, run by the user's shell, or the socket that it passes back."""
    letters = {key: settings.tokens[key] for key in "%hknpr" if key in settings.tokens}
    bounded = SshSettings(settings.named, {}, {}, letters, {}, settings.home)
    text = bounded.expand("ProxyCommand", command.replace("${", "$\0{")).replace("$\0{", "${")
    ours, theirs = socket.socketpair()
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # read after a failure, closed with the way
    with theirs:
        process = subprocess.Popen(
            [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {text}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=errors,
        )
    if not settings.yes("proxyusefdpass"):
        return _Way(ours, process=process, errors=errors)
    with ours:
        ours.settimeout(CONNECT_SECONDS)
        _, passed, _, _ = socket.recv_fds(ours, 1, 1)
    if not passed:
        _end(process)
        raise OSError(f"ProxyCommand passed no socket{_said(_Way(None, errors=errors))}")
    return _Way(socket.socket(fileno=passed[0]), process=process, errors=errors)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a ProxyCommand, which may not listen to SIGTERM."""
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _said(way: _Way | None) -> str:
    """The last words of a ProxyCommand."""
    if way is None or way.errors is None:
        return ""
    way.errors.seek(0)
    text = way.errors.read().decode("utf-8", "replace").strip()
    return f"; ProxyCommand said: {text[-300:]}" if text else ""


def connection_to(text: str) -> SshConnection:
    """The connection to an address as a user writes it; not open yet.

    Raises:
        UsageError: the address or the ssh configuration cannot be read or honoured.
    """
    return _connection(parse_destination(text), "", ())


def _connection(destination: Destination, jumps: str, passed: tuple[str, ...]) -> SshConnection:
    """As OpenSSH: the last jump host is reached through the ones before it."""
    settings = settings_of(destination, jumps)
    told = settings.one("proxyjump")
    if not told:
        return SshConnection(settings)
    *before, last = (hop.strip() for hop in told.split(","))
    jump = parse_destination(last)
    place = f"{jump.user or settings.user}@{jump.host}:{jump.port or 22}"
    here = f"{settings.user}@{settings.host}:{settings.port}"
    if place == here or len(passed) >= MOST_JUMPS:
        road = " -> ".join([*passed, settings.named])
        raise UsageError(
            f"{settings.named}: ProxyJump {told} leads back to where it started",
            f"jumphost loop: {road}",
            "give the jump host a Host of its own with `ProxyJump none`",
        )
    gateway = _connection(jump, ",".join(before), (*passed, settings.named))
    return SshConnection(settings, gateway)

"""Reads `[user@]host[:port]`, `[user@][IPv6]:port` and `ssh://` URIs. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

import msgspec

from edgekit.errors import UsageError

# OpenSSH refuses these: names and users are put into ProxyCommand, which a shell reads.
_UNSAFE = re.compile(r"""[\s'"`$\\;&<>|(){},]|^-|[^\x20-\x7e\x80-\U0010ffff]""")
_FORM = "an address is [user@]host[:port], [user@][IPv6]:port or a Host of ~/.ssh/config"


class Destination(msgspec.Struct, frozen=True):
    """What a user named: a host or a Host of ~/.ssh/config; empty and 0: as the files say."""

    host: str
    user: str = ""
    port: int = 0


def parse_destination(text: str) -> Destination:
    """Read an address as a user writes it, with or without `ssh://`.

    Raises:
        UsageError: it has another form, or characters that no host and no user has.
    """
    uri = re.match(r"(?:ssh:)?//", text)
    rest = text[uri.end() :] if uri else text
    if uri:
        rest, _, path = rest.partition("/")
        if path:
            raise _refused(text, f"an ssh:// address has no path, this one has /{path}")
    user, at, place = rest.rpartition("@")
    if uri:
        user = unquote(user.partition(";")[0])
    host, port = _host_and_port(place, text)
    if at and not user:
        raise _refused(text, "there is no user before the @")
    for what, name in (("host", host), ("user", user)):
        if _UNSAFE.search(name):
            raise _refused(text, f"a {what} is not called {name!r}")
    return Destination(host, user, port)


def _host_and_port(place: str, text: str) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", place, re.DOTALL)
    if bracketed:
        host, port = bracketed.groups()
        if ":" in host:
            _check_ip(host, text)
    elif place.count(":") > 1:
        host, port = place, None
        _check_ip(host, text)
    else:
        host, colon, after = place.partition(":")
        port = after if colon else None
    if not host:
        raise _refused(text, "there is no host")
    if "[" in host or "]" in host:
        raise _refused(text, _FORM)
    return host, _port(port, text)


def _port(port: str | None, text: str) -> int:
    if port is None:
        return 0
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise _refused(text, f"a port is a number from 1 to 65535, not {port!r}")
    return int(port)


def _check_ip(host: str, text: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise _refused(text, f"{host!r} is no IPv6 address: {error}") from None


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"the SSH address {text!r} cannot be read",
        why,
        "write [user@]host[:port], [user@][IPv6]:port, or a Host of ~/.ssh/config",
    )

"""One connection to a registry: HTTP/1.1, with logins and redirects as registries use them.

A registry may ask for a login by Basic (RFC 7617) or by a bearer token, which its token server
gives out (distribution's "Token Authentication Specification"). It may send a client elsewhere for
a blob; no credentials go to another origin, and https never becomes http. Every answer is read up
to a bound, and every wait has a deadline.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

from edgekit.core.registry import PORTS, RegistryAddress, is_loopback
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.registry.pace import PacedResponse

SILENT_SECONDS = 30.0  # of a registry that owes an answer
MAX_REDIRECTS = 5
MAX_TOKEN_BYTES = 64 << 10
MAX_REST_BYTES = 64 << 10  # of an answer that nobody wants; more, and the connection is closed
LATER = (408, 425, 429, 500, 502, 503, 504)  # the same request can succeed later
_CHALLENGE = re.compile(r'([A-Za-z]+)="([^"]*)"')

Body = bytes | Callable[[], Iterable[bytes]]


class NotThereError(EdgekitError):
    """The registry does not have what was asked for."""


class NoEntryError(EdgekitError):
    """The registry lets nobody in with these credentials."""


@dataclass(frozen=True)
class RegistryAccess:
    """A repository, and what is needed to reach it.

    Attributes:
        address: of the repository.
        username: empty: without a login.
        password_file: holds the password, whose last line end does not count.
        ca_file: CAs that may sign the registry's certificate; empty: the system's.
    """

    address: RegistryAddress
    username: str = ""
    password_file: str = ""
    ca_file: str = ""


class RegistryClient:
    """Requests to one repository, over a connection that is kept.

    Args:
        access: how to reach it.
        pushes: whether the token that is asked for allows to push.

    Raises:
        UsageError: the password or the CA file cannot be read.
    """

    def __init__(self, access: RegistryAccess, *, pushes: bool = False) -> None:
        self.address = access.address
        self._scope = f"repository:{access.address.repository}:pull{',push' if pushes else ''}"
        self._basic = _basic(access)
        self._context = _context(access)
        self._authorization = ""
        self._kept: dict[str, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close the connections."""
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    def path(self, *words: str) -> str:
        """A path of the repository, like `/v2/NAME/blobs/DIGEST`."""
        return "/".join(("/v2", self.address.repository, *words))

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        *,
        accept: Iterable[int] = (200,),
    ) -> http.client.HTTPResponse:
        """Send a request; return the answer with its body unread.

        Args:
            method: of HTTP.
            path: of this registry, or a whole URL that it gave.
            headers: beside those of the login.
            body: bytes, or what makes its pieces.
            accept: status codes that are an answer.

        Raises:
            NotThereError: 404.
            NoEntryError: 401 or 403, also with the login.
            UnreachableError: no connection, no answer in time, or an answer that says so.
            VerificationError: its certificate is not acceptable, or a redirect or a URL is not.
            EdgekitError: another status.
        """
        url = self._redirected(self.address.origin, self._joined(self.address.origin, path))
        wanted, logged_in = frozenset(accept), False
        for _ in range(MAX_REDIRECTS + 2):
            response = self._send(method, url, dict(headers or {}), body)
            if response.status in wanted:
                return response
            if response.status == 401 and not logged_in and _origin(url) == self.address.origin:
                logged_in = True
                challenge = response.headers.get_all("WWW-Authenticate") or []
                self.drain(response)
                if self._log_in(challenge):
                    continue
            if response.status in (301, 302, 303, 307, 308) and (
                target := response.headers.get("Location")
            ):
                self.drain(response)
                url = self._redirected(url, self._joined(url, target))
                continue
            raise self._status(response, method, url)
        raise EdgekitError(f"{self.address} redirects without an end", f"the last place: {url}")

    def read(self, response: http.client.HTTPResponse, limit: int) -> bytes:
        """Read a whole answer.

        Raises:
            VerificationError: it has more than `limit` bytes.
            UnreachableError: it broke off.
        """
        try:
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(f"{self.address} broke off", str(error)) from None
        if len(data) > limit:
            self.close()
            raise VerificationError(
                f"an answer of {self.address} is too long",
                f"more than {limit:,} bytes; none of them were used",
            )
        if response.length:
            self.close()
            raise UnreachableError(f"{self.address} broke off", f"{response.length} bytes lack")
        return data

    def drain(self, response: http.client.HTTPResponse) -> bytes:
        """Read what is left of an answer that nobody wants, or close its connection."""
        data = b""
        with suppress(OSError, http.client.HTTPException):
            data = response.read(MAX_REST_BYTES)
        if not response.isclosed():
            self.close()
        return data

    # --- one request --------------------------------------------------------------------------
    def _send(
        self, method: str, url: str, headers: dict[str, str], body: Body
    ) -> http.client.HTTPResponse:
        parts, origin = urlsplit(url), _origin(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        if origin == self.address.origin and self._authorization:
            headers["Authorization"] = self._authorization
        headers |= {"User-Agent": "edgekit", "Accept-Encoding": "identity"}
        # A kept connection may have ended since. A body of pieces may have come in part: its
        # sender asks first how far it came.
        kept = origin in self._kept and isinstance(body, bytes)
        for again in (kept, False):
            connection = self._kept.setdefault(origin, self._connection(url))
            try:
                content = body if isinstance(body, bytes) else body()
                connection.request(method, target, content or None, headers)
                return connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self._drop(origin)
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise VerificationError(
                        f"the certificate of {origin} is not acceptable",
                        error.verify_message,
                        "name its CA with ca_file in [pull] of fleet.toml",
                    ) from None
                if not again:
                    raise UnreachableError(
                        f"{origin} does not answer", str(error) or type(error).__name__,
                        "is the registry up, and is the address right?",
                    ) from None  # fmt: skip
            except ValueError as error:  # its host is no name, or its path no ASCII
                self._drop(origin)
                raise self._unusable(url, error) from None
        raise AssertionError("the second attempt returns or raises")

    def _connection(self, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, port, timeout=SILENT_SECONDS, context=self._context)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=SILENT_SECONDS)
        )
        connection.response_class = PacedResponse
        return connection

    def _drop(self, origin: str) -> None:
        if (connection := self._kept.pop(origin, None)) is not None:
            connection.close()

    def _joined(self, base: str, told: str) -> str:
        """A URL that the registry gave, made whole; raises VerificationError if it is none."""
        try:
            url = urljoin(base, told)
            _origin(url)
        except ValueError as error:
            raise self._unusable(told, error) from None
        return url

    def _unusable(self, url: str, error: ValueError) -> VerificationError:
        return VerificationError(
            f"{self.address} sends a URL that cannot be used",
            f"{_shown(url)!a}: {error}",
            "look at the registry's settings",
        )

    def _redirected(self, before: str, after: str) -> str:
        """Where a redirect leads; raises VerificationError where it must not lead."""
        was, now = urlsplit(before), urlsplit(after)
        if now.scheme not in PORTS or (now.scheme == "http" and was.scheme == "https"):
            raise VerificationError(
                f"{self.address} redirects from {was.scheme} to {now.scheme or 'nowhere'}",
                f"to {_shown(after)}; nothing was sent there",
                "let the registry serve its blobs by https",
            )
        return after

    # --- logins -------------------------------------------------------------------------------
    def _log_in(self, challenges: list[str]) -> bool:
        """Prepare the login that the registry asks for; False if there is nothing to try."""
        self._authorization = ""  # a token that has ended is no login at a token server either
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                told = dict(_CHALLENGE.findall(rest))
                self._authorization = f"Bearer {self._token(told)}"
                return True
            if scheme.lower() == "basic" and self._basic:
                self._authorization = self._basic
                return True
        return False

    def _token(self, told: dict[str, str]) -> str:
        """Ask the token server that the registry names."""
        realm = self._joined("", told.get("realm", ""))
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (
            parts.scheme == self.address.scheme == "http"
            and (is_loopback(parts.hostname or "") or _origin(realm) == self.address.origin)
        ):
            raise VerificationError(
                f"{self.address} sends its clients to {_shown(realm)} for a token",
                "a login goes to a token server by https alone",
                "give the registry a token server with https",
            )
        asked = {"scope": told.get("scope") or self._scope}
        if told.get("service"):
            asked["service"] = told["service"]
        url = f"{realm}{'&' if parts.query else '?'}{urlencode(asked)}"
        headers = {"Authorization": self._basic} if self._basic else {}
        response = self._send("GET", url, headers, b"")
        if response.status != 200:
            raise self._status(response, "GET", url)
        try:
            answer = json.loads(self.read(response, MAX_TOKEN_BYTES))
            token = answer.get("token") or answer["access_token"]
            if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
                raise ValueError("its token is no text")
        except (ValueError, KeyError, AttributeError) as error:
            raise EdgekitError(f"{_shown(realm)} gives no token", str(error)) from None
        return token

    def _status(self, response: http.client.HTTPResponse, method: str, url: str) -> EdgekitError:
        """The error of a status; the connection goes on if the rest is short."""
        told = _told(self.drain(response))
        why = f"{method} {_shown(url)}: {response.status} {response.reason}{told}"
        if response.status == 404:
            return NotThereError(f"{self.address} does not have it", why)
        if response.status in (401, 403):
            return NoEntryError(
                f"{self.address} lets us not in",
                why,
                "set username and password_file in [pull] of fleet.toml, or correct them",
            )
        if response.status in LATER:
            return UnreachableError(f"{self.address} cannot serve it now", why, "try again later")
        return EdgekitError(f"{self.address} refused", why)


def _told(answer: bytes) -> str:
    """What the registry says of its error (section "Error Codes" of the specification)."""
    try:
        error = json.loads(answer)["errors"][0]
        text = f"; {error.get('code', '')} {error.get('message', '')}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
    return "".join(letter for letter in text if letter.isprintable())[:200].rstrip()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = "" if parts.port in (None, PORTS.get(parts.scheme)) else f":{parts.port}"
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _shown(url: str) -> str:
    """A URL without its query, which may hold a secret."""
    return url.partition("?")[0][:200]


def _basic(access: RegistryAccess) -> str:
    if not access.username:
        return ""
    try:
        password = Path(access.password_file).read_text("utf-8") if access.password_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the registry's password cannot be read from {access.password_file}",
            str(error),
            next_step="password_file must name a file that this account may read",
        ) from None
    told = f"{access.username}:{password.rstrip(chr(10)).rstrip(chr(13))}"
    return f"Basic {base64.b64encode(told.encode()).decode()}"


def _context(access: RegistryAccess) -> ssl.SSLContext | None:
    if access.address.scheme != "https":
        return None
    try:
        return ssl.create_default_context(cafile=access.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the CAs of the registry cannot be read from {access.ca_file}",
            str(error),
            next_step="ca_file must name a file with certificates in PEM",
        ) from None

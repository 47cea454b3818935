"""Pulls from a registry: small things as bytes, blobs into the part files of a store.

A blob goes on where its part ends, by an HTTP range, as long as attempts bring it on. Nothing here
is trusted: small things are held against their digest, and a part is hashed by `BlobStore.adopt`.
"""

from __future__ import annotations

import http.client
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.core.digest import Digest
from edgekit.core.manifest import MANIFEST_TYPE
from edgekit.errors import UnreachableError, VerificationError
from edgekit.registry.client import RegistryClient
from edgekit.registry.pace import LEAST_BYTES

CHUNK_BYTES = 1 << 18
MOST_FAILURES = 5  # attempts in a row that brought less than LEAST_BYTES
PAUSE_SECONDS = 0.5  # before the second attempt; it doubles, and chance spreads it
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)\Z")


def manifest(client: RegistryClient, reference: str, limit: int) -> bytes:
    """The manifest of a tag, or of a digest, against which it is held.

    Raises:
        NotThereError: the registry does not have it.
        VerificationError: it is too long, or has another digest.
        EdgekitError: as `RegistryClient.ask`.
    """
    response = client.ask("GET", client.path("manifests", reference), {"Accept": MANIFEST_TYPE})
    data = client.read(response, limit)
    if reference.startswith("sha256:"):
        _check(client, data, Digest.parse(reference))
    return data


def small_blob(client: RegistryClient, digest: Digest, size: int) -> bytes:
    """A blob of which `size` bytes fit into memory.

    Raises:
        VerificationError: it is longer, or has another digest.
        EdgekitError: as `RegistryClient.ask`.
    """
    data = client.read(client.ask("GET", client.path("blobs", digest)), size)
    _check(client, data, digest)
    return data


def blob(
    client: RegistryClient,
    digest: Digest,
    size: int,
    part: Path,
    count: Callable[[int], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring a part to its whole length; what is there already is not asked for.

    Args:
        client: of the registry.
        digest, size: of the blob.
        part: the file that collects its bytes; it may be there.
        count: called with the number of bytes that came.
        sleep: waits between attempts.

    Raises:
        NotThereError: the registry does not have the blob.
        UnreachableError: attempts brought (almost) nothing; the part keeps what came.
        VerificationError: the registry sends another range, or a blob of another length.
        OSError: the disk takes no more.
    """
    failures = 0
    while (have := part.stat().st_size if part.exists() else 0) < size:
        try:
            _more(client, digest, size, part, have, count)
        except UnreachableError as error:
            came = part.stat().st_size - have if part.exists() else 0
            failures = 0 if came >= LEAST_BYTES else failures + 1
            if failures >= MOST_FAILURES:
                raise UnreachableError(
                    f"blob {digest.short} did not come whole from {client.address}",
                    f"{error.why or error.what}; {have:,} of {size:,} bytes are here",
                    "it goes on there as soon as the registry answers",
                ) from None
            sleep(PAUSE_SECONDS * 2**failures * (0.5 + random.random()))  # noqa: S311  no secret


def _more(
    client: RegistryClient,
    digest: Digest,
    size: int,
    part: Path,
    have: int,
    count: Callable[[int], None],
) -> None:
    """Append to a part until it is whole or the answer ends."""
    headers = {"Range": f"bytes={have}-{size - 1}"}
    response = client.ask("GET", client.path("blobs", digest), headers, accept=(200, 206))
    start = _start(client, response, digest, size, have)
    with part.open("r+b" if part.exists() else "xb") as file:
        file.truncate(start)
        file.seek(start)
        left = size - start
        try:
            while left and (data := response.read1(min(CHUNK_BYTES, left))):
                left -= file.write(data)
                count(len(data))
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            client.close()
            raise UnreachableError(f"{client.address} broke off", str(error)) from None
    if left or not response.isclosed():
        client.close()
    if left:
        raise UnreachableError(f"{client.address} broke off", f"{left:,} bytes are missing")


def _start(
    client: RegistryClient,
    response: http.client.HTTPResponse,
    digest: Digest,
    size: int,
    have: int,
) -> int:
    """At which byte an answer begins; raises VerificationError for one that was not asked for."""
    if response.status == 206:
        told = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if told is None or (int(told[1]), int(told[3])) != (have, size):
            client.close()
            raise VerificationError(
                f"{client.address} sends other bytes of {digest.short} than were asked for",
                f"Content-Range: {ascii(response.headers.get('Content-Range', ''))[:80]}",
            )
        return have
    if response.length is not None and response.length != size:
        length = response.length
        client.close()
        raise VerificationError(
            f"blob {digest.short} of {client.address} is not the signed one",
            f"it has {length:,} bytes in place of {size:,}",
        )
    return 0  # it knows no ranges: from the beginning


def _check(client: RegistryClient, data: bytes, wanted: Digest) -> None:
    if Digest.of(data) != wanted:
        raise VerificationError(
            f"{client.address} lies: what it calls {wanted.short} has another digest",
            str(Digest.of(data)),
            "it was not used; look at the registry, or publish again",
        )

"""Content digests: `sha256:<64 hex>`, the only name bytes have in edgekit (OCI image spec)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from edgekit.errors import VerificationError

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Digest(str):
    """A validated `sha256:<hex>`; `parse` and `of` are its only makers."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises: VerificationError when `text` is not a sha256 digest."""
        if not _PATTERN.match(text):
            raise VerificationError(
                f"{text!r} is not a digest", "a digest is sha256: and 64 lower-case hex digits"
            )
        return cls(text)

    @classmethod
    def of(cls, data: bytes | Iterable[bytes]) -> Digest:
        """The digest of bytes, or of a stream of chunks."""
        hasher = hashlib.sha256()
        for chunk in (data,) if isinstance(data, bytes) else data:
            hasher.update(chunk)
        return cls("sha256:" + hasher.hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits: a blob's file name."""
        return self[7:]

    @property
    def short(self) -> str:
        """Twelve hex digits, for people."""
        return self[7:19]

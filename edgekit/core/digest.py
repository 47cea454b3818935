"""Content digests: `sha256:<64 hex>`, the only name bytes have in edgekit (OCI image spec)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from edgekit.errors import VerificationError

_PREFIX = "sha256:"
_PATTERN = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Digest(str):
    """A validated `sha256:<hex>`; `parse`, `from_hex` and `of` are its only makers."""

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
    def from_hex(cls, text: str) -> Digest:
        """From 64 hex digits: a blob's file name, or what a hash object gives.

        Raises:
            VerificationError: `text` is something else.
        """
        return cls.parse(_PREFIX + text)

    @classmethod
    def of(cls, data: bytes | Iterable[bytes]) -> Digest:
        """The digest of bytes, or of a stream of chunks."""
        hasher = hashlib.sha256()
        for chunk in (data,) if isinstance(data, bytes) else data:
            hasher.update(chunk)
        return cls(_PREFIX + hasher.hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits: a blob's file name."""
        return self.removeprefix(_PREFIX)

    @property
    def short(self) -> str:
        """Twelve hex digits, for people."""
        return short(self)


def short(text: str) -> str:
    """Twelve hex digits, for people, of a text that nobody checked; of another text its start."""
    return text.removeprefix(_PREFIX)[:12]


def decode_hook(kind: type, value: Any) -> Any:
    """A `dec_hook` of msgspec: a field of type `Digest` is checked while it is decoded.

    Raises:
        VerificationError: a text that is no digest.
        ValueError: no text, or a type that is not known here; msgspec names the field.
    """
    if kind is not Digest or not isinstance(value, str):
        raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return Digest.parse(value)


def encode_hook(value: Any) -> str:
    """An `enc_hook` of msgspec: a `Digest` is written as the text it is.

    Raises:
        TypeError: a type that is not known here.
    """
    if not isinstance(value, Digest):
        raise TypeError(f"{type(value).__name__} cannot be encoded")
    return str(value)

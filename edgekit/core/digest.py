"""Content digests, `sha256:<64 hex>` (OCI image spec): edgekit names all content by them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from edgekit.errors import VerificationError

_PREFIX = "sha256:"
_PATTERN = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Digest(str):
    """A validated `sha256:<hex>`; only `parse`, `from_hex` and `of` make one."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check a text; raises VerificationError when `text` is not a sha256 digest."""
        if not _PATTERN.match(text):
            raise VerificationError(
                f"{text!r} is not a digest", "a digest is sha256: and 64 lower-case hex digits"
            )
        return cls(text)

    @classmethod
    def from_hex(cls, text: str) -> Digest:
        """Make a digest from 64 hex digits: a blob's file name or the output of a hash object.

        Raises:
            VerificationError: `text` is not 64 lower-case hex digits.
        """
        return cls.parse(_PREFIX + text)

    @classmethod
    def of(cls, data: bytes | Iterable[bytes]) -> Digest:
        """Hash bytes, or a stream of chunks."""
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
        """The first twelve hex digits, for output to people."""
        return short(self)


def short(text: str) -> str:
    """The first twelve hex digits of an unchecked digest; any other text is cut to twelve."""
    return text.removeprefix(_PREFIX)[:12]


def decode_hook(kind: type, value: Any) -> Any:
    """A `dec_hook` of msgspec that checks each field of type `Digest` while it decodes.

    Raises:
        VerificationError: the text is no digest.
        ValueError: the value is no text, or `kind` is not `Digest`; msgspec names the field.
    """
    if kind is not Digest or not isinstance(value, str):
        raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return Digest.parse(value)


def encode_hook(value: Any) -> str:
    """An `enc_hook` of msgspec that writes a `Digest` as plain text.

    Raises:
        TypeError: the value is not a `Digest`.
    """
    if not isinstance(value, Digest):
        raise TypeError(f"{type(value).__name__} cannot be encoded")
    return str(value)

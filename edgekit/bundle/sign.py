"""Signatures of a project: DSSE envelopes around in-toto statements, with one Ed25519 key.

`edgekit.keyfile` reads and writes the key's file; the rest is pure.
Ed25519 is deterministic (RFC 8032): the same key and statement give the same envelope, and packing
twice gives one digest. https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from securesystemslib import exceptions

from edgekit import keyfile
from edgekit.errors import VerificationError
from edgekit.keyfile import PublicKey, SigningKey

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope

PAYLOAD_TYPE = "application/vnd.in-toto+json"
KEY_NAME = "signing.pem"  # private

# JSON of another shape raises these; securesystemslib lets Python's own errors through.
_MALFORMED = (
    msgspec.MsgspecError, exceptions.Error, AttributeError, KeyError, TypeError, ValueError,
)  # fmt: skip


class Signed(msgspec.Struct, frozen=True):
    """A payload with a valid signature. Only `verify_envelope` makes one."""

    keyid: str
    payload: bytes


def make_key(folder: Path) -> bool:
    """Make the project's signing key unless it has one.

    Args:
        folder: the folder of keys; made with mode 0700, the key in it with 0600.

    Returns:
        Whether a key was made; an existing key is never overwritten.
    """
    return keyfile.make(folder / KEY_NAME)


def load_key(folder: Path) -> SigningKey:
    """Load the project's signing key.

    Raises:
        UsageError: the key is missing, other accounts can read it, or it is no Ed25519 key.
    """
    return keyfile.load(folder / KEY_NAME, "the project has no signing key")


def public_key(folder: Path) -> PublicKey | None:
    """Load the public half of the project's key; None when the project has no key yet."""
    return load_key(folder).public_key if (folder / KEY_NAME).exists() else None


def sign_statement(statement: bytes, key: SigningKey) -> bytes:
    """Sign a statement: a DSSE envelope as JSON, which holds the statement's bytes unchanged."""
    envelope = _envelopes()(statement, PAYLOAD_TYPE, {})
    envelope.sign(key)
    return msgspec.json.encode(envelope.to_dict(), order="sorted")


def verify_envelope(data: bytes, key: PublicKey) -> Signed:
    """Check an envelope's signature and return its payload.

    Raises:
        VerificationError: the bytes are no envelope, have another payload type, are not signed by
            `key`, or were altered.
    """
    envelope = _parse(data)
    try:
        accepted = envelope.verify([key], 1)
    except exceptions.Error as error:
        raise VerificationError(
            "the provenance's signature does not hold",
            f"the key {key.keyid[:12]} did not sign it, or it was altered since",
            "do not use this bundle; pack the model again",
        ) from error
    return Signed(next(iter(accepted)), envelope.payload)


def read_unverified(data: bytes) -> tuple[list[str], bytes]:
    """Read an envelope's key ids and its payload without checking any signature.

    Raises:
        VerificationError: the bytes are no envelope.
    """
    envelope = _parse(data)
    return list(envelope.signatures), envelope.payload


def _envelopes() -> type[Envelope]:
    """Import where it is used: it brings every kind of signer, and most commands sign nothing."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415  see above

    return Envelope


def _parse(data: bytes) -> Envelope:
    try:
        envelope: Envelope = _envelopes().from_dict(msgspec.json.decode(data, type=dict))
    except _MALFORMED as error:
        raise VerificationError("the provenance is no DSSE envelope", str(error)) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise VerificationError(
            "the envelope holds no in-toto statement", f"its type is {envelope.payload_type!r}"
        )
    return envelope

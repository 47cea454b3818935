"""Private keys as files: PKCS #8 in PEM, Ed25519 alone, for their owner alone.

Devices verify Ed25519 without `cryptography`; they could not check any other kind of signature.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from edgekit.errors import UsageError
from edgekit.store import fsync_folder

MAKE = "make one: `openssl genpkey -algorithm ed25519 -out KEY.pem`"
MAX_BYTES = 1 << 16  # a key is a few hundred bytes; the file may be any file

SigningKey = CryptoSigner
PublicKey = SSlibKey


def make(path: Path) -> bool:
    """Make a key unless the file exists; an existing key is never overwritten.

    Args:
        path: the key's file, made with mode 0600; its folder is made with 0700.

    Returns:
        Whether a key was made.
    """
    return write(path, CryptoSigner.generate_ed25519())


def write(path: Path, key: SigningKey) -> bool:
    """Write a private key to a file that does not exist; return whether this call wrote it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, a link does not replace another process's key
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def load(path: Path, missing: str, *, portable: bool = False) -> SigningKey:
    """Load a private key.

    Args:
        path: the key's file.
        missing: what is said when there is no such file.
        portable: the file may lie on a medium whose file system knows no modes, such as FAT.

    Raises:
        UsageError: the key is missing or encrypted, other accounts can read it, or it is no Ed25519
            key.
    """
    try:
        mode, pem = path.stat().st_mode, _read(path)
    except FileNotFoundError:
        next_step = "name the file of a key" if portable else "`edgekit init` makes one"
        raise UsageError(missing, f"there is no {path}", next_step) from None
    if mode & 0o077 and not portable:
        raise UsageError(
            f"others can read the signing key {path}",
            f"its mode is {mode & 0o777:o}",
            f"run: chmod 600 {path}",
        )
    try:
        key = load_pem_private_key(pem, None)
    except TypeError as error:  # it has a passphrase
        raise UsageError(
            f"{path} is not a usable key",
            str(error),
            "decrypt it for this command, or name a program that signs: --signer COMMAND",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a usable key", str(error), MAKE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not a usable key", "it is not an Ed25519 key", MAKE)
    return SigningKey(key)


def load_public(path: Path) -> PublicKey:
    """Load a public key from a PEM file; of a private key's file, the public half.

    Raises:
        UsageError: the file is missing, or it is no Ed25519 key.
    """
    try:
        pem = _read(path)
    except FileNotFoundError:
        raise UsageError(f"there is no {path}", next_step=MAKE) from None
    if b"PRIVATE KEY" in pem:
        return load(path, "", portable=True).public_key
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a usable public key", str(error), MAKE) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is not a usable public key", "it is not an Ed25519 key", MAKE)
    return SSlibKey.from_crypto(key)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES)

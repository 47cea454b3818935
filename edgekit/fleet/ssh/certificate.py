"""Checks the certificate of a host: its signature, its time, its names and its options."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)


def read_certificate(kind: str, blob: bytes) -> SSHCertificate | None:
    """A certificate from its wire form; None where it cannot be read."""
    try:
        found = load_ssh_public_identity(f"{kind} {base64.b64encode(blob).decode()}".encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return found if isinstance(found, SSHCertificate) else None


def authority_of(blob: bytes) -> bytes:
    """The key that signed a certificate, in wire form; `?` where it cannot be found."""
    try:
        return _tail(blob)[0]
    except IndexError:
        return b"?"


def certificate_problem(
    certificate: SSHCertificate, host: str, now: float, algorithms: Sequence[str], blob: bytes
) -> str:
    """Why a certificate is not valid for a host; empty if it is.

    The rules of sshkey_cert_check_host in OpenSSH and of its PROTOCOL.certkeys.

    Args:
        certificate: the certificate.
        host: the name that it must be for, without a port.
        now: the time, in seconds since 1970.
        algorithms: CASignatureAlgorithms; empty: every algorithm but RSA with SHA-1.
        blob: its wire form, whose end names the algorithm of its signature.
    """
    if certificate.type is not SSHCertificateType.HOST:
        return "its certificate is for a user, not for a host"
    try:
        certificate.verify_cert_signature()
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        return f"the signature of its certificate is wrong: {error}".rstrip(": ")
    if now < certificate.valid_after:
        return "its certificate is not valid yet"
    if now >= certificate.valid_before:
        return "its certificate has expired"
    names = [name.decode("utf-8", "replace") for name in certificate.valid_principals]
    if names and host not in names:
        return f"its certificate is for {', '.join(names)}, not for {host}"
    if certificate.critical_options:
        return "its certificate has critical options, and none is known for hosts"
    signature = _tail(blob)[1]
    used = signature[4 : 4 + int.from_bytes(signature[:4], "big")].decode("ascii", "replace")
    if used not in algorithms if algorithms else used == "ssh-rsa":
        return f"its certificate is signed with {used}, which CASignatureAlgorithms does not allow"
    return ""


def _tail(blob: bytes) -> tuple[bytes, bytes]:
    """The authority's key and the signature, the last fields of a certificate in wire form.

    PROTOCOL.certkeys: type, nonce, the fields of the key, serial, type, id, principals, two times,
    options, extensions, reserved, the authority's key, the signature.

    Raises:
        IndexError: it ends before that.
    """
    at = 0

    def take() -> bytes:
        nonlocal at
        start = at + 4
        at = start + int.from_bytes(blob[at:start], "big")
        if at > len(blob):
            raise IndexError
        return blob[start:at]

    kind = take()
    for _ in range(2 if b"ed25519" in kind else 3):  # nonce and key
        take()
    at += 8 + 4
    for _ in range(2):
        take()
    at += 8 + 8
    for _ in range(3):
        take()
    return take(), take()

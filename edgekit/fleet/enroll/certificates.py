"""The broker certificates of a device: checks what is carried there, signs what it asks for."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgekit.errors import EdgekitError, UsageError

LASTS = datetime.timedelta(days=730)


def _no_passphrase() -> str:
    raise ValueError("it is encrypted, and the device has no terminal to ask for its passphrase")


def check_pair(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Check files before they are carried anywhere.

    Raises:
        UsageError: a file is missing or no PEM, or the key is encrypted or another certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{ca} is not the file of a CA", _why(error), "name a PEM") from None
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, _no_passphrase)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"{certificate} and {key} are not a certificate and its private key",
                _why(error),
                "name two PEM files that belong together, the key without a passphrase",
            ) from None


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    return str(reason).replace("_", " ").lower() if isinstance(error, ssl.SSLError) else reason


class SigningAuthority:
    """The project's CA: its certificate and its private key.

    Raises:
        UsageError: the files cannot be read, or are not the two halves of a CA.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
            loaded = load_pem_private_key(key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{certificate} and {key} cannot sign", str(error), "name the PEM files of the CA"
            ) from None
        if loaded.public_key() != self._certificate.public_key():
            raise UsageError(
                f"{key} is not the private key of {certificate}", next_step="name its own key"
            )
        self._key: CertificateIssuerPrivateKeyTypes = loaded  # type: ignore[assignment]  # it has the certificate's public key, so it can sign

    def certificate_for(self, name: str, request: str, has: str, now: datetime.datetime) -> bytes:
        """The certificate of a device in PEM: the one that it has, else a new one.

        Args:
            name: the device, which becomes the Common Name.
            request: what it asks for, in PEM.
            has: the certificate that it has, in PEM; empty without one.
            now: the time.

        Raises:
            EdgekitError: the request is none, or not of this device.
            UsageError: the CA has expired.
        """
        try:
            asked = x509.load_pem_x509_csr(request.encode())
        except ValueError as error:
            raise EdgekitError(f"{name} made no request for a certificate", str(error)) from None
        names = [a.value for a in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if not asked.is_signature_valid or names != [name]:
            raise EdgekitError(f"{name} asks for the certificate of {names}", "it was changed")
        if self._still_good(asked, has, now):
            return has.encode()
        if now >= self._certificate.not_valid_after_utc:
            raise UsageError(
                "the CA has expired, so it signs nothing",
                f"it was valid until {self._certificate.not_valid_after_utc:%Y-%m-%d}",
                "make a new CA, and tell the broker of it",
            )
        digest = None if isinstance(self._key, Ed25519PrivateKey) else hashes.SHA256()
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))  # the broker's clock may be behind
            .not_valid_after(min(now + LASTS, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .sign(self._key, digest)
        )
        return made.public_bytes(Encoding.PEM)

    def _still_good(
        self, asked: x509.CertificateSigningRequest, has: str, now: datetime.datetime
    ) -> bool:
        """Whether a certificate is ours, of this key, and before half of its life."""
        try:
            old = x509.load_pem_x509_certificate(has.encode())
            old.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        life = old.not_valid_after_utc - old.not_valid_before_utc
        return (
            old.public_key() == asked.public_key()
            and old.subject == asked.subject
            and now < old.not_valid_before_utc + life / 2
        )

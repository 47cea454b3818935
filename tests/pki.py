"""Certificates for the tests: a CA, what it signs, and its list of what it took back."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate's two files."""

    cert: Path
    key: Path

    @property
    def files(self) -> dict[str, str]:
        """As `BrokerConfig` takes them."""
        return {"cert_file": str(self.cert), "key_file": str(self.key)}

    def replace(self, other: Certificate) -> None:
        """Take the bytes of another one, as a renewal does."""
        self.cert.write_bytes(other.cert.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """A CA whose files lie in a folder."""

    folder: Path
    name: str = "ca"
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self._now = datetime.datetime.now(datetime.UTC)
        self.cert = self.folder / f"{self.name}.crt"
        made = (
            self._builder(self.name, self.key, DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.cert.write_bytes(made.public_bytes(Encoding.PEM))

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, lasts: datetime.timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - 3 * DAY)
            .not_valid_after(self._now + lasts)
        )

    def issue(
        self,
        name: str,
        *,
        file: str = "",
        hosts: tuple[str, ...] = (),
        expired: bool = False,
        passphrase: str = "",
    ) -> Certificate:
        """A certificate for a client of this name, or for a broker with these host names."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, key, -DAY if expired else DAY)
        if hosts:
            names: list[x509.GeneralName] = [
                x509.IPAddress(ipaddress.ip_address(host))
                if host[0].isdigit()
                else x509.DNSName(host)
                for host in hosts
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = Certificate(self.folder / f"{file or name}.crt", self.folder / f"{file or name}.key")
        signed = builder.sign(self.key, hashes.SHA256())
        made.cert.write_bytes(signed.public_bytes(Encoding.PEM))
        how = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
        return made

    def revoke(self, *certificates: Certificate) -> Path:
        """The list of revoked certificates, these and no others."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.name))
            .last_update(self._now - DAY)
            .next_update(self._now + DAY)
        )
        for certificate in certificates:
            serial = x509.load_pem_x509_certificate(certificate.cert.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(self._now - DAY)
                .build()
            )
        path = self.folder / f"{self.name}.crl"
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path

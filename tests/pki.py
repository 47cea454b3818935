"""Certificates for the tests: a CA, what it signs, what it took back, a broker that shows them."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

from edgekit.core.config import BrokerConfig
from tests import tools

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

    def key_pem(self) -> bytes:
        """Its private key."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

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


@dataclass
class TlsBroker:
    """One Mosquitto with a port for each certificate it may show; `good` asks for ours."""

    folder: Path
    ca: Authority
    shown: dict[str, Certificate]
    crl: Path
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        lines = ["allow_anonymous true", f"log_dest file {self.log_file}", "set_tcp_nodelay true"]
        if os.geteuid() == 0:
            lines.append("user root")
        for name, certificate in self.shown.items():
            self.ports[name] = tools.free_port()
            lines += [
                f"listener {self.ports[name]} 127.0.0.1",
                *(f"certfile {certificate.cert}", f"keyfile {certificate.key}"),
            ]
            if name == "good":
                lines += [
                    *(f"cafile {self.ca.cert}", "require_certificate true"),
                    *("use_identity_as_username true", f"crlfile {self.crl}"),
                ]
        self.ports["plain"] = tools.free_port()
        lines.append(f"listener {self.ports['plain']} 127.0.0.1")
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen([tools.find("mosquitto"), "-c", str(config)])
        tools.wait_for_port(self.ports["plain"], self.process)

    @property
    def log_file(self) -> Path:
        return self.folder / "mosquitto.log"

    def log_since(self, offset: int) -> str:
        return self.log_file.read_bytes()[offset:].decode()

    def config(self, port: str, certificate: Certificate | None, **more: str) -> BrokerConfig:
        ours = certificate.files if certificate else {}
        values: dict[str, Any] = {"ca_file": str(self.ca.cert)} | ours | more
        return BrokerConfig("127.0.0.1", self.ports[port], tls=True, **values)

"""TLS to the broker: make the context, and explain why one end refused the other's certificate.

No option disables a check. `explain` turns an alert or a verification failure into the terms of
`[broker]` in edgekit.toml; error numbers are OpenSSL's (x509_vfy.h), alerts are those of RFC 8446,
section 6.2.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgekit.core.config import TLS_FILES, BrokerConfig
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError

_OTHER_CA = (
    "is not signed by a CA that is trusted here",
    "ca_file in [broker] names the CA's certificate; without it the system's CAs count",
)
_OTHER_NAME = (
    "is for another name",
    "set host in [broker] to a name in the certificate, or issue one with this name",
)
_NO_LIST = (
    "cannot be looked up in crl_file",
    "crl_file must be a current list of the CA that signed it",
)
# X509_V_ERR_*: the fault of the broker's certificate, and the next step
_BROKER_CERTIFICATE = {
    2: _OTHER_CA,
    3: _NO_LIST,
    9: ("is not valid yet", "is this machine's clock right?"),
    10: ("has expired", "renew the broker's certificate; is this machine's clock right?"),
    11: _NO_LIST,
    12: _NO_LIST,
    18: _OTHER_CA,
    19: _OTHER_CA,
    20: _OTHER_CA,
    21: _OTHER_CA,
    23: ("has been revoked", "do not connect before the broker has a new certificate"),
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
# the end of an alert's name: the broker's complaint about our certificate, and the next step
_OUR_CERTIFICATE = {
    "ALERT_CERTIFICATE_EXPIRED": ("it has expired", "renew cert_file; a restart is not needed"),
    "ALERT_CERTIFICATE_REVOKED": ("it has been revoked", "have another one issued"),
    "ALERT_UNKNOWN_CA": (
        "it knows no CA that signed it",
        "have one issued by the broker's CA (cafile in mosquitto.conf)",
    ),
    "ALERT_BAD_CERTIFICATE": ("it is not valid", "is it valid already, and made for a client?"),
    "ALERT_UNSUPPORTED_CERTIFICATE": ("it is of an unsupported kind", "is it for a client?"),
    "ALERT_CERTIFICATE_UNKNOWN": ("it is not acceptable", "the broker's log may say more"),
    "ALERT_ACCESS_DENIED": ("it is not acceptable", "the broker's log may say more"),
}
_NO_CERTIFICATE = ("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")  # TLS 1.3, TLS 1.2


class Socket(ssl.SSLSocket):
    """Keeps the alert with which the broker ended the connection.

    With TLS 1.3 our side completes the handshake before the broker has checked our certificate.
    The broker's alert therefore comes with the first read, or after a failed write.
    """

    alert: ssl.SSLError | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.alert = self.alert or error
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            with suppress(OSError):
                self.recv(1)
            raise


def make_context(broker: BrokerConfig) -> ssl.SSLContext:
    """Make the context for this broker: at least TLS 1.2, a trusted CA, the broker's name.

    Raises:
        UsageError: a file of `[broker]` cannot be read or has the wrong contents.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the name and requires a certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = Socket
    if not broker.ca_file:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if broker.crl_file:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    _load(context, broker)
    return context


_CORRECT = "correct [broker] in edgekit.toml, or of the device in fleet.toml"


def _load(context: ssl.SSLContext, broker: BrokerConfig) -> None:
    for name in TLS_FILES:
        if path := getattr(broker, name):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise UsageError(
                    f"{name} of [broker] cannot be read", str(error), _CORRECT
                ) from error
    for name in ("ca_file", "crl_file"):
        if path := getattr(broker, name):
            try:
                context.load_verify_locations(path)
            except ssl.SSLError as error:
                kind = "certificates" if name == "ca_file" else "a list of revoked certificates"
                raise UsageError(
                    f"{name} of [broker] does not hold {kind} in PEM", path, _CORRECT
                ) from error
    if broker.cert_file:
        try:
            context.load_cert_chain(broker.cert_file, broker.key_file, _no_passphrase)
        except ssl.SSLError as error:
            other = error.reason == "KEY_VALUES_MISMATCH"
            raise UsageError(
                "key_file of [broker] is not the key of cert_file"
                if other
                else "cert_file or key_file of [broker] is not in PEM",
                f"{broker.cert_file}, {broker.key_file}",
                _CORRECT,
            ) from error


def _no_passphrase() -> str:
    raise UsageError(
        "key_file of [broker] has a passphrase",
        "an agent starts without a user who could type it",
        "store the key without one, readable by its owner alone",
    )


def explain(error: OSError | ValueError, broker: BrokerConfig) -> EdgekitError:
    """Explain why there is no connection, and which end's certificate was refused."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what, next_step = _BROKER_CERTIFICATE.get(error.verify_code, ("is not acceptable", ""))
        return VerificationError(
            f"the certificate of the broker at {broker} {what}", error.verify_message, next_step
        )
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    alert = reason[reason.find("ALERT_") :]
    if alert in _NO_CERTIFICATE and not broker.cert_file:
        return EdgekitError(
            f"the broker at {broker} wants a certificate",
            _said(reason),
            "set cert_file and key_file in [broker]",
        )
    if alert in _OUR_CERTIFICATE:
        why, next_step = _OUR_CERTIFICATE[alert]
        return EdgekitError(
            f"the broker at {broker} refuses our certificate: {why}",
            f"{_said(reason)}, about {broker.cert_file}",
            next_step,
        )
    if reason.startswith(("WRONG_VERSION", "RECORD_LAYER")) or (
        broker.tls and isinstance(error, (ssl.SSLEOFError, ConnectionResetError))
    ):
        return UnreachableError(
            f"the broker at {broker} ends the TLS handshake",
            str(error),
            "is this its TLS port (8883)? For one without TLS leave tls = true out of [broker]",
        )
    if reason:
        return EdgekitError(f"TLS with the broker at {broker} failed", str(error))
    return UnreachableError(
        f"the broker at {broker} does not answer",
        str(error),
        "start it (for a trial: `edgekit broker run`) or set [broker] in edgekit.toml",
    )


def _said(reason: str) -> str:
    return f"the broker's alert: {reason[reason.find('ALERT_') + 6 :].replace('_', ' ').lower()}"

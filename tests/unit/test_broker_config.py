"""`[broker]`: what it takes, what each device is told of it, and its certificates' files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.config import BrokerConfig
from edgekit.errors import UsageError
from edgekit.fleet import inventory
from edgekit.mqtt import tls
from edgekit.mqtt.threaded import MqttClient
from tests.pki import Authority

FLEET = """
[broker]
username = "{device}"
cert_file = "/etc/edgekit/{device}.crt"
key_file = "/etc/edgekit/{device}.key"

[devices.pi-1]
address = "ssh:pi-1"

[devices.pi-2]
address = "ssh:pi-2"
broker = { host = "10.0.0.2", key_file = "/etc/keys/tpm.key" }
"""


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"cert_file": "/a", "key_file": "/b"}, "cert_file needs tls = true"),
        ({"ca_file": "/a"}, "ca_file needs tls = true"),
        ({"crl_file": "/a"}, "crl_file needs tls = true"),
        ({"tls": True, "cert_file": "/a"}, "together or not at all"),
        ({"tls": True, "key_file": "/a"}, "together or not at all"),
        ({"tls": True, "ca_file": "ca.crt"}, "ca_file must be an absolute path"),
        ({"tls": True, "cert_file": "a", "key_file": "/b"}, "cert_file must be an absolute path"),
    ],
)
def test_a_broker_s_values_that_cannot_go_together_are_refused(
    values: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        BrokerConfig(**values)


def test_each_device_has_a_certificate_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    fleet = inventory.load(path)
    base = BrokerConfig("broker.example", 8883, "alice", tls=True, ca_file="/ca.crt")
    assert fleet.broker_of("pi-1", base) == BrokerConfig(
        "broker.example",
        8883,
        "pi-1",
        tls=True,
        ca_file="/ca.crt",
        cert_file="/etc/edgekit/pi-1.crt",
        key_file="/etc/edgekit/pi-1.key",
    )
    other = fleet.broker_of("pi-2", base)
    assert (other.host, other.cert_file) == ("10.0.0.2", "/etc/edgekit/pi-2.crt")
    assert other.key_file == "/etc/keys/tpm.key"


def test_a_device_s_broker_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    with pytest.raises(UsageError, match="pi-1") as caught:
        inventory.load(path).broker_of("pi-1", BrokerConfig())
    assert "needs tls = true" in caught.value.why
    path.write_text(FLEET.replace("username", "user"))
    with pytest.raises(UsageError) as caught:
        inventory.load(path)
    assert "user" in caught.value.why


def test_tls_is_1_2_or_newer_and_the_name_is_always_checked(ca: Authority) -> None:
    for broker in (BrokerConfig(tls=True), BrokerConfig(tls=True, ca_file=str(ca.cert))):
        context = tls.make_context(broker)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file", "crl_file"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN NONSENSE-----\n"])
def test_a_file_that_is_missing_or_no_pem_is_named(
    ca: Authority, name: str, content: bytes | None
) -> None:
    mine = ca.issue("alice")
    files = {"ca_file": str(ca.cert), "crl_file": str(ca.revoke()), **mine.files}
    bad = ca.folder / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    broker = BrokerConfig(tls=True, **(files | {name: str(bad)}))  # type: ignore[arg-type]  # all are strings
    with pytest.raises(UsageError) as caught:
        MqttClient(broker, "c", subscriptions=[], on_message=lambda _: None)
    assert name in caught.value.what
    assert str(bad) in caught.value.why


def test_a_key_of_another_certificate_is_said_to_be_one(ca: Authority) -> None:
    mine, other = ca.issue("alice"), ca.issue("bob")
    files = mine.files | {"key_file": str(other.key)}
    with pytest.raises(UsageError, match="is not the key of cert_file"):
        tls.make_context(BrokerConfig(tls=True, **files))  # type: ignore[arg-type]  # all are strings


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(ca: Authority) -> None:
    mine = ca.issue("alice", passphrase="secret")
    with pytest.raises(UsageError, match="has a passphrase"):
        tls.make_context(BrokerConfig(tls=True, **mine.files))  # type: ignore[arg-type]  # all are strings


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({"host": "broker.example"}, True),
        ({"host": "10.0.0.2"}, True),
        ({"host": "broker.example", "tls": True}, False),
        ({"host": "broker.example", "password_file": ""}, False),
        ({"host": "127.0.0.2"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_a_password_in_the_clear_over_a_network_is_warned_of(
    values: dict[str, object], warned: bool
) -> None:
    broker = BrokerConfig(**{"password_file": "/p", **values})  # type: ignore[arg-type]  # as given
    assert ("tls = true" in broker.warning) == warned

"""The files of `edgekit broker acl` as text (tests/system/test_acl.py attacks their broker)."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edgekit.broker.mosquitto import (
    MAX_PACKET_BYTES,
    Account,
    BrokerSetup,
    configuration,
    dynamic_security,
    requesters,
)
from edgekit.broker.write import write
from edgekit.core import pictures
from edgekit.errors import UsageError
from edgekit.mqtt.packet import MAX_PROPERTY_BYTES

SETUP = BrokerSetup(
    devices={"pi-1": ("kitchen",)},
    requesters=("alice",),
    folder="/etc/mosquitto/edgekit",
    data="/var/lib/mosquitto",
    cert_file="/b.crt",
    key_file="/b.key",
    ca_file="/ca.crt",
)
ACCOUNTS = [Account("pi-1", "one", bytes(12)), Account("alice", "two", bytes(12))]


def test_the_configuration_bounds_what_a_client_can_cost() -> None:
    lines = configuration(SETUP).splitlines()
    for wanted in (
        *("allow_anonymous false", "set_tcp_nodelay true", "persistence true"),
        *("max_packet_size 1048576", "max_queued_messages 1000", "max_inflight_messages 20"),
        *("listener 8883", "require_certificate true", "use_identity_as_username true"),
        "listener 8884",
    ):
        assert wanted in lines
    assert lines.count("tls_version tlsv1.2") == 2
    assert not any(line.startswith("crlfile") for line in lines)


def test_a_broker_for_certificates_alone_has_one_port_and_may_have_a_list_of_revoked_ones() -> None:
    setup = msgspec.structs.replace(SETUP, password_port=0, crl_file="/ca.crl", host="10.0.0.1")
    lines = configuration(setup).splitlines()
    listeners = [line for line in lines if line.startswith("listener")]
    assert listeners == ["listener 8883 10.0.0.1"]
    assert "crlfile /ca.crl" in lines


def test_client_ids_are_bound_on_every_port_where_asked_for() -> None:
    bound = "use_username_as_clientid true"
    assert bound not in configuration(SETUP)
    setup = msgspec.structs.replace(SETUP, bind_client_ids=True)
    assert configuration(setup).splitlines().count(bound) == 2


def test_dynamic_security_has_one_literal_role_for_each_and_denies_the_rest() -> None:
    made = json.loads(dynamic_security(SETUP, ACCOUNTS))
    assert [role["rolename"] for role in made["roles"]] == ["pi-1", "alice"]
    assert {c["username"]: c["roles"] for c in made["clients"]} == {
        "pi-1": [{"rolename": "pi-1"}],
        "alice": [{"rolename": "alice"}],
    }
    assert not any(made["defaultACLAccess"][kind] for kind in ("publishClientSend", "subscribe"))
    topics = [acl["topic"] for role in made["roles"] for acl in role["acls"]]
    assert not any("%" in topic for topic in topics)


def test_each_requester_is_served_once_and_none_has_a_device_s_name() -> None:
    assert requesters(["bob", "alice", "bob"], {"pi-1": ()}) == ("bob", "alice")
    with pytest.raises(UsageError, match="pi-1 cannot be a device and a requester"):
        requesters(["alice", "pi-1"], {"pi-1": ()})
    with pytest.raises(UsageError, match="a/b"):
        requesters(["a/b"], {})


def test_passwords_are_made_once_and_a_refused_write_changes_nothing(tmp_path: Path) -> None:
    written = write(tmp_path, SETUP, force=False)
    assert sorted(path.name for path in written.files) == ["acl", "mosquitto.conf", "passwd"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(before) == {*written.files, *written.passwords.values()}
    more = msgspec.structs.replace(SETUP, requesters=("alice", "bob"))
    with pytest.raises(UsageError, match="has these files already"):
        write(tmp_path, more, force=False)
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "passwords" / "bob").exists()
    kept = write(tmp_path, more, force=True).passwords
    for name, path in written.passwords.items():
        assert kept[name].read_bytes() == before[path]
    assert kept["bob"].stat().st_mode & 0o777 == 0o600


def test_a_password_s_file_that_is_empty_is_named(tmp_path: Path) -> None:
    empty = write(tmp_path, SETUP, force=False).passwords["alice"]
    empty.write_text("\n")
    with pytest.raises(UsageError, match="alice is empty"):
        write(tmp_path, SETUP, force=True)


def test_a_password_s_file_that_is_no_utf8_text_is_named(tmp_path: Path) -> None:
    damaged = write(tmp_path, SETUP, force=False).passwords["alice"]
    damaged.write_bytes(b"\xff\xfepassword\n")
    with pytest.raises(UsageError, match="alice is not UTF-8 text") as caught:
        write(tmp_path, SETUP, force=True)
    assert "remove it" in caught.value.next_step
    assert damaged.read_bytes() == b"\xff\xfepassword\n"


def test_a_folder_in_the_place_of_a_password_is_named(tmp_path: Path) -> None:
    place = write(tmp_path, SETUP, force=False).passwords["alice"]
    place.unlink()
    place.mkdir()
    with pytest.raises(UsageError, match="alice cannot be read") as caught:
        write(tmp_path, SETUP, force=True)
    assert caught.value.next_step


def test_the_broker_takes_the_largest_prompt_with_pictures() -> None:
    assert MAX_PACKET_BYTES > pictures.MOST_BODY_BYTES + MAX_PROPERTY_BYTES

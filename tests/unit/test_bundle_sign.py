"""Signatures: a project's key is kept, and nothing altered or signed by another passes."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgekit.bundle.sign import (
    KEY_NAME,
    PAYLOAD_TYPE,
    load_key,
    make_key,
    public_key,
    read_unverified,
    sign_statement,
    verify_envelope,
)
from edgekit.errors import UsageError, VerificationError
from edgekit.keyfile import SigningKey

STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    make_key(tmp_path / "keys")
    return load_key(tmp_path / "keys")


def test_the_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    before = os.umask(0)
    try:
        assert make_key(folder)
    finally:
        os.umask(before)
    path = folder / KEY_NAME
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert isinstance(load_pem_private_key(path.read_bytes(), None), Ed25519PrivateKey)
    data = path.read_bytes()
    assert not make_key(folder)
    assert path.read_bytes() == data
    assert [p.name for p in folder.iterdir()] == [KEY_NAME]


def test_who_comes_second_keeps_the_first_ones_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "first")
    other = (tmp_path / "first" / KEY_NAME).read_bytes()
    path = tmp_path / "keys" / KEY_NAME
    link = os.link

    def late(source: Path, target: Path) -> None:
        path.write_bytes(other)  # another process, just before our key takes its place
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert not make_key(tmp_path / "keys")
    assert path.read_bytes() == other


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o640)
    with pytest.raises(UsageError, match="others can read") as refused:
        load_key(tmp_path)
    assert "chmod 600" in refused.value.next_step


@pytest.mark.parametrize("data", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_is_refused(tmp_path: Path, data: bytes) -> None:
    make_key(tmp_path)
    (tmp_path / KEY_NAME).write_bytes(data)
    with pytest.raises(UsageError, match="not a usable key"):
        load_key(tmp_path)


def test_a_project_without_a_key_has_no_public_key(tmp_path: Path) -> None:
    assert public_key(tmp_path) is None
    with pytest.raises(UsageError, match="no signing key"):
        load_key(tmp_path)
    make_key(tmp_path)
    assert public_key(tmp_path) == load_key(tmp_path).public_key


def test_signing_twice_gives_the_same_bytes(key: SigningKey) -> None:
    assert sign_statement(STATEMENT, key) == sign_statement(STATEMENT, key)


def test_the_signature_is_dsse_s_own_and_any_ed25519_verifies_it(key: SigningKey) -> None:
    envelope = json.loads(sign_statement(STATEMENT, key))
    assert envelope["payloadType"] == PAYLOAD_TYPE
    assert base64.b64decode(envelope["payload"]) == STATEMENT
    # protocol.md of DSSE: PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body
    encoded = b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(STATEMENT),
        STATEMENT,
    )
    raw = bytes.fromhex(key.public_key.keyval["public"])
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    Ed25519PublicKey.from_public_bytes(raw).verify(signature, encoded)


def test_a_good_envelope_gives_back_the_statement(key: SigningKey) -> None:
    signed = verify_envelope(sign_statement(STATEMENT, key), key.public_key)
    assert (signed.keyid, signed.payload) == (key.public_key.keyid, STATEMENT)


def tampered(data: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(data) | changes).encode()


def test_a_tampered_envelope_is_refused(key: SigningKey) -> None:
    good = sign_statement(STATEMENT, key)
    signature = json.loads(good)["signatures"][0]
    other_payload = base64.b64encode(STATEMENT + b" ").decode()
    other_signature = base64.b64encode(bytes(64)).decode()
    for bad in (
        tampered(good, payload=other_payload),
        tampered(good, signatures=[]),
        tampered(good, signatures=[signature | {"sig": other_signature}]),
        tampered(good, signatures=[signature | {"keyid": "00" * 32}]),
        tampered(good, payloadType="text/plain"),
    ):
        with pytest.raises(VerificationError):
            verify_envelope(bad, key.public_key)
    verify_envelope(tampered(good), key.public_key)  # the helper itself breaks nothing


def test_another_key_is_refused_even_under_the_same_id(key: SigningKey) -> None:
    other = SigningKey.generate_ed25519(keyid=key.public_key.keyid)
    with pytest.raises(VerificationError, match="does not hold"):
        verify_envelope(sign_statement(STATEMENT, other), key.public_key)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"payload":1,"payloadType":"x","signatures":[]}',
        b'{"payload":"!","payloadType":"x","signatures":[]}',
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[1]}',
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":{"a":1}}',
        b'{"payload":"","payloadType":7,"signatures":[]}',
    ],
)
def test_what_is_no_envelope_is_refused(key: SigningKey, data: bytes) -> None:
    with pytest.raises(VerificationError):
        verify_envelope(data, key.public_key)
    with pytest.raises(VerificationError):
        read_unverified(data)

"""A digest is checked once, where it is decoded; a wrong one is refused there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.bundle.layout import Layout
from edgekit.core.digest import Digest, decode_hook, encode_hook, short
from edgekit.core.manifest import parse_manifest
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.plan import Offer

GOOD = Digest.of(b"x")
WRONG = ("", "sha256:", "sha256:" + "0" * 63, GOOD.upper(), GOOD + "\n", GOOD.hex, "md5:" + GOOD)


def manifest(digest: object) -> bytes:
    blob = {"mediaType": "application/vnd.edgekit.bundle.config.v1+json", "digest": digest}
    agent = {"mediaType": "application/vnd.edgekit.agent.v1.tar+zstd", "digest": GOOD, "size": 1}
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.edgekit.bundle.v1+json",
            "config": blob | {"size": 1},
            "layers": [agent],
        },
        enc_hook=str,
    )


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_digest_is_refused_wherever_one_is_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is not a digest"):
        Digest.parse(text)
    with pytest.raises(VerificationError, match="is not a digest"):
        parse_manifest(manifest(text))
    offered = {"missing": [{"digest": text, "size": 1, "have": 0}]}
    with pytest.raises(VerificationError, match="is not a digest"):
        msgspec.convert(offered, Offer, dec_hook=decode_hook)
    store = Layout(tmp_path)
    store.create()
    entry = {"mediaType": "m", "digest": text, "size": 1}
    (tmp_path / "index.json").write_bytes(
        msgspec.json.encode({"schemaVersion": 2, "manifests": [entry]}, enc_hook=str)
    )
    with pytest.raises(EdgekitError, match="is not a digest"):
        store.resolve(None)


@pytest.mark.parametrize("value", [None, 1, ["sha256"], {}])
def test_what_is_no_text_is_refused_and_its_place_is_named(value: object) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_manifest(manifest(value))
    assert "$.config.digest" in caught.value.why


def test_what_is_decoded_is_a_digest() -> None:
    config = parse_manifest(manifest(GOOD)).config
    assert type(config.digest) is Digest
    assert config.digest == Digest.from_hex(GOOD.hex) == GOOD
    with pytest.raises(VerificationError):
        Digest.from_hex(GOOD)


def test_the_hooks_know_digests_alone() -> None:
    assert msgspec.json.encode([GOOD], enc_hook=encode_hook) == f'["{GOOD}"]'.encode()
    with pytest.raises(TypeError):
        msgspec.json.encode(object(), enc_hook=encode_hook)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("text", Path, dec_hook=decode_hook)


def test_a_short_name_is_made_of_anything() -> None:
    assert short(GOOD) == GOOD.short == GOOD.hex[:12]
    assert short("another agent's word") == "another agen"
    assert short("") == ""

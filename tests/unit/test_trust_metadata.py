"""What a device believes: TUF's rules over python-tuf's own files, clocks, kinds of keys, sizes.

`SAME` is one project; each test changes one thing of it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from edgekit.core.digest import Digest
from edgekit.errors import VerificationError
from edgekit.trust.metadata import (
    MAX_BYTES,
    MAX_OFFER_BYTES,
    MAX_ROOTS,
    accept,
    parse_offered,
)
from edgekit.trust.rules import begin
from edgekit.trust.signed import Metadata, SignedRelease
from edgekit.trust.verified import VerifiedManifest, verify
from tests.believing import DATA, DAY, NOW, first, keep, maker, next_of, refused
from tests.metadata_maker import Maker, key

# --- what is taken


def test_the_first_root_that_is_offered_is_trusted_where_there_is_none() -> None:
    made = maker()
    trusted = accept(None, None, made.made(), NOW)
    assert trusted.first_root == trusted.root == made.roots[0]
    assert trusted.signed_at == int(NOW)
    assert list(trusted.releases) == [f"releases/{Digest.of(DATA).hex}"]
    assert trusted.warnings == ()


def test_a_chain_of_roots_is_followed_to_its_end() -> None:
    made = maker()
    kept = first(made)
    for step in range(3):
        made.rotate("root", f"root {step}")
        made.rotate("targets", f"targets {step}")
    made.bump()
    assert accept(kept, made.roots[0], made.made(), NOW).root == made.roots[-1]
    assert accept(None, made.roots[0], made.made(), NOW).root == made.roots[-1]


def test_what_was_kept_is_offered_again_and_changes_nothing() -> None:
    made = maker()
    kept = first(made)
    assert keep(accept(kept, None, made.made(), NOW)) == kept


def test_a_threshold_of_two_is_met_by_two_and_by_an_order_of_any_kind() -> None:
    keys = {r: [key(r)] for r in ("root", "snapshot", "timestamp")}
    keys["targets"] = [key("a"), key("b"), key("c")]
    made = maker(keys=keys, thresholds={"targets": 2})
    made.signers["targets"] = [key("c"), key("a")]
    accept(None, None, made.made(), NOW)


def test_files_that_carry_more_than_the_device_knows_are_taken() -> None:
    """Unknown fields of a later version of TUF, or of a later edgekit."""
    made = maker()
    made.sign(DATA, 1, custom={"edgekit": {"name": "t", "version": "1", "counter": 3,
              "hardware": ["x"], "later": 1}, "other": []})  # fmt: skip
    trusted = accept(None, None, made.made(), NOW)
    assert trusted.releases


# --- signatures


def test_no_signature_at_all() -> None:
    made = maker()
    for role in ("timestamp", "snapshot", "targets"):
        bad = made.copy()
        bad.signers[role] = []
        refused(None, bad.made(), f"{role}.json is not signed by enough keys")
        refused(first(made), next_of(bad), f"{role}.json is not signed by enough keys")


def test_a_signature_of_a_key_that_the_root_does_not_name() -> None:
    for role in ("timestamp", "snapshot", "targets"):
        bad = maker()
        bad.signers[role] = [key("stranger")]
        refused(None, bad.made(), f"{role}.json is not signed")


def test_a_signature_of_another_roles_key() -> None:
    bad = maker()
    bad.signers["targets"] = [key("timestamp")]
    refused(None, bad.made(), "targets.json is not signed")


def test_one_signature_where_two_are_needed_even_if_it_is_there_twice() -> None:
    keys = {r: [key(r)] for r in ("root", "snapshot", "timestamp")}
    bad = maker(keys=keys | {"targets": [key("a"), key("b")]})
    bad.signers["targets"] = [key("a")]
    refused(None, bad.made(), "targets.json is not signed", "1/2")
    offered = bad.made()
    file = json.loads(offered.targets)
    file["signatures"] *= 2
    bad.hashes = False
    refused(None, _with(bad, targets=json.dumps(file)), "targets.json")


def _with(made: Maker, **texts: str) -> Metadata:
    """Metadata without hashes, whose files are replaced."""
    made.hashes = False
    return msgspec.structs.replace(made.made(), **texts)


def test_one_key_under_two_names_does_not_count_twice() -> None:
    one = key("a")
    twin = CryptoSigner(one._private_key, SSlibKey("f" * 64, "ed25519", "ed25519",
                        dict(one.public_key.keyval)))  # fmt: skip
    keys = {r: [key(r)] for r in ("root", "snapshot", "timestamp")}
    refused(None, maker(keys=keys | {"targets": [one, twin]}).made(), "one key under two names")
    shouting = dict(one.public_key.keyval) | {"public": one.public_key.keyval["public"].upper()}
    loud = CryptoSigner(one._private_key, SSlibKey("e" * 64, "ed25519", "ed25519", shouting))
    refused(None, maker(keys=keys | {"targets": [one, loud]}).made(), "one key under two names")


@pytest.mark.parametrize("make", [CryptoSigner.generate_ecdsa, CryptoSigner.generate_rsa])
def test_keys_of_another_kind_are_refused_although_the_controller_could_verify_them(
    make: Callable[[], Any],
) -> None:
    keys = {r: [key(r)] for r in ("root", "snapshot", "timestamp")}
    bad = maker(keys=keys | {"targets": [make()]})
    refused(None, bad.made(), "root.json has a key of the kind", "Ed25519", "revoke")
    good = maker()
    kept = first(good)
    good.keys["targets"] = [make()]
    good.new_root()
    refused(kept, next_of(good), "root.json has a key of the kind")


def test_a_key_that_was_revoked_signs_nothing_more() -> None:
    made = maker()
    kept = first(made)
    old = made.copy()
    made.rotate("targets", "new targets")
    made.bump()
    kept = keep(accept(kept, None, made.made(), NOW))
    old.roots = made.roots
    old.versions = {role: version + 1 for role, version in made.versions.items()}
    refused(kept, old.made(), "targets.json is not signed")


def test_a_root_that_the_old_root_did_not_sign() -> None:
    made = maker()
    kept = first(made)
    made.keys["root"] = [key("stranger")]
    made.new_root()
    refused(kept, next_of(made), "root.json is not signed")


def test_a_root_that_does_not_sign_itself() -> None:
    made = maker()
    kept = first(made)
    old = made.keys["root"]
    made.keys["root"] = [key("new root")]
    made.signers["root"] = old
    made.new_root()
    refused(kept, next_of(made), "root.json is not signed")
    refused(None, msgspec.structs.replace(maker().made(), roots=[]), "no root of trust")
    made = maker()
    made.roots, made.signers["root"] = [], [key("x")]
    made.new_root()
    refused(None, made.made(), "cannot trust any root.json", "signed by its own keys")


def test_the_project_of_another_person() -> None:
    keys = {role: [key(f"other {role}")] for role in ("root", "targets", "snapshot", "timestamp")}
    refused(first(maker()), maker(keys=keys).made(), "timestamp.json is not signed", "another")


def test_a_root_that_is_left_out_of_the_chain() -> None:
    made = maker()
    kept = first(made)
    for step in range(2):
        made.rotate("targets", f"targets {step}")
    made.bump()
    offered = msgspec.structs.replace(made.made(), roots=made.roots[::2])
    refused(kept, offered, "root.json has not the version")


def test_a_fork_of_the_root_that_the_device_has_already_seen_is_not_followed() -> None:
    made = maker()
    kept = first(made)
    thief = made.copy()
    made.rotate("root", "new root")  # because the old key was stolen
    made.bump()
    kept = keep(accept(kept, None, made.made(), NOW))
    thief.rotate("targets", "thief's")
    thief.bump()
    thief.bump()
    refused(kept, thief.made(), "targets.json is not signed")
    refused(kept, thief.made(), "targets.json is not signed", anchor=made.roots[0])


# --- versions and mixtures


def test_older_files_are_not_taken_back() -> None:
    made = maker()
    old = made.made()
    made.bump()
    new = made.made()
    kept = keep(accept(None, None, new, NOW))
    refused(kept, old, "timestamp.json has not the version", "older metadata")
    made.bump("timestamp")
    made.versions["snapshot"] -= 1
    refused(kept, made.made(), "timestamp.json has not the version")
    made.versions["snapshot"] += 2
    made.versions["targets"] -= 1
    refused(kept, made.made(), "snapshot.json has not the version")


def test_files_of_two_pushes_are_not_mixed() -> None:
    made = maker()
    one = made.made()
    made.sign(b"another release", 2)
    made.bump()
    two = made.made()
    for name in ("snapshot", "targets"):
        mixed = msgspec.structs.replace(two, **{name: getattr(one, name)})
        refused(None, mixed, f"{name}.json does not belong to the other files")
        mixed = msgspec.structs.replace(one, **{name: getattr(two, name)})
        refused(None, mixed, f"{name}.json")
    made.hashes = False  # a snapshot and a timestamp that give versions alone
    three = next_of(made)
    mixed = msgspec.structs.replace(three, targets=one.targets)
    refused(None, mixed, "targets.json has not the version")


def test_a_snapshot_that_forgets_a_file_is_refused() -> None:
    made = maker()
    kept = first(made)
    made.bump()
    file = json.loads(made.made().snapshot)
    assert "targets.json" in file["signed"]["meta"]
    offered = made.made()
    refused(kept, msgspec.structs.replace(offered, snapshot=offered.timestamp), "snapshot.json")


def test_a_version_in_the_far_future_ends_with_the_key_that_signed_it() -> None:
    """Fast-forward: whoever stole the online key names a version that none can exceed."""
    made = maker()
    made.versions["timestamp"] = made.versions["snapshot"] = 2**31 - 1
    made.signed_at = int(NOW + 300 * DAY)
    kept = first(made)
    made.versions |= {"timestamp": 2, "snapshot": 2}
    made.signed_at = None
    refused(kept, made.made(), "timestamp.json has not the version")
    made.rotate("timestamp", "new timestamp")
    made.rotate("snapshot", "new snapshot")
    trusted = accept(kept, None, made.made(), NOW)
    assert trusted.signed_at == int(NOW), "its time ends with the key too"


# --- what cannot be read


def test_endless_data_is_cut() -> None:
    offered = maker().made()
    for name, limit in MAX_BYTES.items():
        if name == "root":
            big = msgspec.structs.replace(offered, roots=[*offered.roots, " " * (limit + 1)])
        else:
            big = msgspec.structs.replace(offered, **{name: " " * (limit + 1)})
        refused(None, big, f"{name}.json is too large")
    refused(None, msgspec.structs.replace(offered, roots=offered.roots * (MAX_ROOTS + 1)),
            "versions of root.json")  # fmt: skip
    with pytest.raises(VerificationError, match="too large"):
        parse_offered(b" " * (MAX_OFFER_BYTES + 1))


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[" * 100_000, '{"signed": 1}', "\ud800", '{"signed":{"version":2}}',
             '{"signed":{"version":1e400}}', '{"signatures":[],"signed":{"_type":"root"}}']
)  # fmt: skip
def test_files_that_are_none_are_refused_by_name(text: str) -> None:
    made = maker()
    kept = first(made)
    offered = next_of(made)
    for name in ("timestamp", "snapshot", "targets"):
        refused(kept, msgspec.structs.replace(offered, **{name: text}), f"{name}.json")
    refused(None, msgspec.structs.replace(offered, roots=[text]), "root")
    if text:
        bad = msgspec.structs.replace(offered, roots=[*offered.roots, text])
        if '"version":1' not in text:
            refused(kept, bad, "root.json")


def test_no_damage_of_a_character_is_taken_or_raises_anything_else() -> None:
    """Bits flip on the way, in each file, at many places: refused by name each time, or equal."""
    made = maker()
    kept = first(made)
    offered = next_of(made)
    wanted = accept(kept, None, offered, NOW)
    dice = random.Random(16)
    for _ in range(150):
        name = dice.choice(["timestamp", "snapshot", "targets"])
        text = getattr(offered, name)
        place = dice.randrange(len(text))
        other = text[:place] + chr(ord(text[place]) ^ (1 << dice.randrange(7))) + text[place + 1 :]
        with suppress(VerificationError):  # any other exception fails the test
            got = accept(kept, None, msgspec.structs.replace(offered, **{name: other}), NOW)
            assert got.releases == wanted.releases


def test_damage_of_what_was_kept_is_repaired_from_the_next_offer() -> None:
    made = maker()
    made.rotate("targets", "targets two")
    kept = first(made)
    offered = next_of(made)
    wanted = keep(accept(kept, made.roots[0], offered, NOW))
    for name in ("root", "timestamp", "snapshot", "targets"):
        damaged = msgspec.structs.replace(kept, **{name: getattr(kept, name)[:-20]})
        got = accept(damaged, made.roots[0], offered, NOW)
        assert msgspec.structs.replace(keep(got), anchor="") == wanted, name


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[]", b'{"manifest": 1}', b"[" * 9999])
def test_an_offer_that_is_none(data: bytes) -> None:
    with pytest.raises(VerificationError, match="offer cannot be read"):
        parse_offered(data)


def test_the_offer_of_an_edgekit_of_before_says_so() -> None:
    with pytest.raises(VerificationError, match="without signed metadata") as caught:
        parse_offered(b'{"schemaVersion":2,"layers":[]}')
    assert "before signed releases" in caught.value.why
    assert "newer edgekit" in caught.value.next_step


# --- the one maker of a verified manifest


def test_a_verified_manifest_has_one_maker() -> None:
    release = SignedRelease(name="a", version="1", counter=1, hardware=[])
    with pytest.raises(TypeError, match="only `verify`"):
        VerifiedManifest(Digest.of(b""), None, b"", release, object())  # type: ignore[arg-type]  # it does not come so far


def test_verify_pins_before_it_looks_into_the_bytes() -> None:
    trusted = accept(None, None, maker().made(), NOW)
    with pytest.raises(VerificationError, match="not the one that was asked for"):
        verify(DATA + b" ", Digest.of(DATA), trusted, ["linux/amd64"], 0)


def test_the_private_name_of_python_tuf_is_there_and_has_a_reference_time() -> None:
    import tuf

    assert tuf.__version__ == "7.0.1"
    made = maker()
    kept = first(made)
    files = begin(kept.root.encode())
    assert type(files).__module__ == "tuf.ngclient._internal.trusted_metadata_set"
    assert files.reference_time.tzinfo is not None
    files.reference_time = datetime.now(UTC) + timedelta(days=9999)
    with pytest.raises(Exception, match=r"root\.json is expired"):
        files.update_timestamp(kept.timestamp.encode())


def test_verifying_imports_no_fetcher_and_leaves_the_whole_client_to_others() -> None:
    """A process that verifies would pay 0.12 s for urllib3, which it does not use."""
    script = """
import sys
from edgekit.trust.rules import begin
try:
    begin(b"{}")
except Exception as error:
    print(type(error).__name__)
print("urllib3" in sys.modules, "tuf.ngclient._internal.trusted_metadata_set" in sys.modules)
from tuf.ngclient import Updater
print("urllib3" in sys.modules, Updater.__module__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [
        "DeserializationError",
        "False",
        "True",
        "True",
        "tuf.ngclient.updater",
    ]

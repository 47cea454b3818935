"""What signs: a program with a key of its own, keys in files, Ed25519 alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit import keyfile
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.signing import manage
from edgekit.signing import signers as signing
from edgekit.signing.manage import Trust
from edgekit.signing.signers import Signers
from tests import tools
from tests.harness.signing import NOW, Client, bundle, sign, trust_in

OPENSSL = tools.find("openssl")

# Signs as a token's program would: OpenSSL alone, no Python and no edgekit.
PROGRAM = """#!/bin/sh
cat > "$0.in"
{openssl} pkeyutl -sign -rawin -inkey {key} -in "$0.in" | od -An -v -tx1 | tr -d ' \\n'
"""


def openssl(*arguments: object) -> None:
    subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True)


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    made = trust_in(tmp_path / "project")
    manage.ensure(made, NOW)
    return made


@pytest.fixture
def token(trust: Trust, tmp_path: Path) -> str:
    """A program whose key is the only one of targets."""
    key, public = tmp_path / "token.pem", tmp_path / "token.public.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    program = script(tmp_path / "token", PROGRAM.format(openssl=OPENSSL, key=key))
    signers = Signers(trust.keys, command=program)
    assert manage.rotate(trust, signers, NOW, "targets", public=keyfile.load_public(public)) == []
    return program


def test_a_program_signs_a_release_with_openssl_s_key(
    trust: Trust, token: str, tmp_path: Path
) -> None:
    waits = sign(trust, "1").waits
    assert "1 more signature for targets.json" in waits[0], "no key of targets is here"
    assert manage.sign_pending(trust, Signers(trust.keys, command=token), NOW) == []
    assert sign(trust, "2", signers=Signers(trust.keys, command=token)).waits == []
    client = Client(trust, tmp_path / "client")
    assert client.targets(bundle("1").digest)
    assert client.targets(bundle("2").digest)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("#!/bin/sh\ncat >/dev/null; echo ok\n", VerificationError, "did not print a signature"),
        ("#!/bin/sh\ncat >/dev/null\n", VerificationError, "did not print a signature"),
        ("#!/bin/sh\nprintf '%0128d' 0\n", VerificationError, "none of the keys"),
        ("#!/bin/sh\necho no token >&2; exit 3\n", EdgekitError, "failed with 3"),
        ("#!/bin/sh\nsleep 9\n", EdgekitError, "no signature within"),
        ("", EdgekitError, "cannot be started"),
    ],
)
def test_a_program_that_does_not_sign_is_told_and_changes_nothing(
    trust: Trust,
    token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    kind: type[EdgekitError],
    said: str,
) -> None:
    monkeypatch.setattr(signing, "SIGNER_SECONDS", 0.5)
    before = {path: path.read_bytes() for path in trust.folder.folder.iterdir()}
    program = script(tmp_path / "bad", text) if text else str(tmp_path / "not-there")
    with pytest.raises(kind, match=said):
        sign(trust, "1", signers=Signers(trust.keys, command=program))
    assert {path: path.read_bytes() for path in trust.folder.folder.iterdir()} == before


@pytest.mark.parametrize("command", ["'open", " "])
def test_a_command_that_is_none_is_a_usage_error(trust: Trust, token: str, command: str) -> None:
    with pytest.raises(UsageError, match="is no command"):
        sign(trust, "1", signers=Signers(trust.keys, command=command))


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed448", "passphrase", "text", "folder"])
def test_other_kinds_of_keys_are_refused_by_name(trust: Trust, tmp_path: Path, kind: str) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    make = {
        "rsa": ("-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"),
        "ec": ("-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        "ed448": ("-algorithm", "ed448"),
        "passphrase": ("-algorithm", "ed25519", "-aes256", "-pass", "pass:1234"),
    }
    if kind in make:
        openssl("genpkey", *make[kind], "-out", key)
        openssl("pkey", "-in", key, "-passin", "pass:1234", "-pubout", "-out", public)
    elif kind == "text":
        key.write_text("no key")
        shutil.copy(key, public)
    else:
        key.mkdir()
        public.mkdir()
    expected = (UsageError, IsADirectoryError)  # the command line tells the second by its path
    with pytest.raises(expected) as refused:
        Signers(trust.keys, [key])
    if kind != "folder":
        assert str(key) in str(refused.value)
    if kind in ("rsa", "ec", "ed448"):
        with pytest.raises(UsageError, match="not an Ed25519 key"):
            keyfile.load_public(public)
    if kind == "passphrase":
        assert keyfile.load_public(public).keytype == "ed25519"
        assert "--signer" in str(refused.value)


def test_a_key_is_moved_and_never_overwrites(trust: Trust, tmp_path: Path) -> None:
    usb = tmp_path / "usb"
    usb.mkdir()
    source = trust.keys.folder / "root.pem"
    data = source.read_bytes()
    (usb / "root.pem").write_text("another")
    for target, said in ((usb, "exists already"), (tmp_path / "no" / "root.pem", "no folder")):
        with pytest.raises(UsageError, match=said):
            manage.export(trust, "root", target)
        assert source.read_bytes() == data
    (usb / "mine.pem").write_bytes(data)  # an export that was killed before its end
    (usb / "mine.pem").chmod(0o600)
    assert manage.export(trust, "root", usb / "mine.pem") == usb / "mine.pem"
    assert (usb / "mine.pem").read_bytes() == data
    assert (usb / "mine.pem").stat().st_mode & 0o777 == 0o600
    assert not source.exists()
    assert manage.export(trust, "targets", usb) == usb / "targets.pem"
    assert (usb / "targets.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="no keys of root are on this machine"):
        manage.export(trust, "root", usb / "again.pem")
    (usb / "mine.pem").chmod(0o755)  # as FAT shows every file
    assert manage.rotate(trust, Signers(trust.keys, [usb / "mine.pem"]), NOW, "root") == []


def test_a_key_that_others_can_read_is_refused_in_the_project(trust: Trust) -> None:
    (trust.keys.folder / "targets.pem").chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        sign(trust, "1")


def test_only_the_key_folder_holds_anything_private(trust: Trust, tmp_path: Path) -> None:
    sign(trust, "1")
    for path in (tmp_path / "project").rglob("*"):
        if path.is_file() and b"PRIVATE" in path.read_bytes():
            assert path.parent == trust.keys.folder
            assert path.stat().st_mode & 0o077 == 0
    assert trust.keys.folder.stat().st_mode & 0o077 == 0

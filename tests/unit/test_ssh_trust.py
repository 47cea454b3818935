"""Host keys: what OpenSSH on loopback cannot show, and what is refused rather than guessed."""

from __future__ import annotations

import base64
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import UsageError, VerificationError
from edgekit.fleet.ssh import trust
from edgekit.fleet.ssh.certificate import authority_of, certificate_problem, read_certificate
from edgekit.fleet.ssh.hostkeys import host_key_order, parse_key, read_known_hosts
from edgekit.fleet.ssh.settings import SshSettings, Values, check_settings_can_be_honoured
from edgekit.fleet.ssh.trust import ShownKey, check_host_key
from tests import tools


def a_key(number: int) -> tuple[str, bytes]:
    """A made-up key of type ssh-ed25519, as a line and in wire form."""
    kind = b"ssh-ed25519"
    blob = len(kind).to_bytes(4, "big") + kind + (32).to_bytes(4, "big") + bytes([number] * 32)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}", blob


LINE, BLOB = a_key(1)
OTHER, _ = a_key(2)
SHOWN = ShownKey("ssh-ed25519", BLOB, 256)


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., SshSettings]:
    """Settings for `pi`, whose known_hosts has the given text."""

    def make(text: str, **more: str) -> SshSettings:
        path = tmp_path / "known_hosts"
        path.write_bytes(text.encode("latin-1"))
        values: Values = {
            "hostname": ("pi.example",),
            "user": ("pi",),
            "userknownhostsfile": (str(path),),
        }
        values |= {key: (value.replace("@DIR@", str(tmp_path)),) for key, value in more.items()}
        return SshSettings("pi", values, {}, {"%": "%"}, {}, str(tmp_path))

    return make


Known = Callable[..., SshSettings]


def test_checkhostip_refuses_another_key_for_the_address(known: Known) -> None:
    text = f"pi.example {LINE}\n192.0.2.7 {OTHER}\n"
    check_host_key(known(text), SHOWN, "192.0.2.7")
    with pytest.raises(VerificationError, match=r"not the one known for its address 192\.0\.2\.7"):
        check_host_key(known(text, checkhostip="yes"), SHOWN, "192.0.2.7")
    check_host_key(known(text, checkhostip="yes"), SHOWN, "192.0.2.8")
    check_host_key(known(text, checkhostip="yes"), SHOWN, "")  # through a proxy
    revoked = known(f"pi.example {LINE}\n@revoked 192.0.2.7 {LINE}\n", checkhostip="yes")
    with pytest.raises(VerificationError, match="its address"):
        check_host_key(revoked, SHOWN, "192.0.2.7")


def test_an_unknown_key_tells_how_to_record_it_under_its_alias(known: Known) -> None:
    with pytest.raises(VerificationError) as caught:
        check_host_key(known("", hostkeyalias="alias"), SHOWN, "")
    assert "`ssh pi`" in caught.value.next_step
    with pytest.raises(VerificationError) as caught:
        check_host_key(known("", port="2222"), SHOWN, "")
    assert "`ssh -p 2222 pi.example`" in caught.value.next_step


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"what is this\n", "no key"),
        (b"ssh-ed25519 AAAA\n", "no key"),
        (b"SSHKRL\n\0 and then nonsense", "KRL"),
        (f"{OTHER}\nssh-ed25519".encode(), ":2"),
    ],
)
def test_revoked_keys_that_cannot_be_read_stop_everything(
    known: Known, tmp_path: Path, data: bytes, why: str
) -> None:
    (tmp_path / "revoked").write_bytes(data)
    with pytest.raises(VerificationError, match="cannot be told whether") as caught:
        check_host_key(known(f"pi.example {LINE}\n", revokedhostkeys="@DIR@/revoked"), SHOWN, "")
    assert why in str(caught.value)


def test_a_krl_without_ssh_keygen_stops_everything(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "revoked").write_bytes(b"SSHKRL\n\0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerificationError, match="ssh-keygen is not installed"):
        check_host_key(known(f"pi.example {LINE}\n", revokedhostkeys="@DIR@/revoked"), SHOWN, "")


def test_a_certificate_that_cannot_be_read_counts_as_its_plain_key(known: Known) -> None:
    shown = ShownKey("ssh-ed25519", BLOB, 256, "ssh-ed25519-cert-v01@openssh.com", b"abc")
    check_host_key(known(f"pi.example {LINE}\n"), shown, "")
    for text in ("", f"@cert-authority * {OTHER}\n", f"@revoked * {LINE}\npi.example {LINE}\n"):
        with pytest.raises(VerificationError):
            check_host_key(known(text), shown, "")


def made_certificate(folder: Path, *options: str) -> tuple[str, bytes, bytes]:
    """Type and wire form of a certificate that ssh-keygen made, and its authority."""
    keygen = tools.find("ssh-keygen")
    for name in ("ca", "host"):
        argv = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    argv = [keygen, "-q", "-s", str(folder / "ca"), "-I", "x", *options, str(folder / "host.pub")]
    subprocess.run(argv, check=True)
    kind, text, *_ = (folder / "host-cert.pub").read_text().split()
    authority = parse_key((folder / "ca.pub").read_text())
    assert authority is not None
    return kind, base64.b64decode(text), authority[1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-h", "-n", "a,b"), ""),
        (("-h",), ""),
        (("-n", "a"), "for a user"),
        (("-h", "-n", "b"), "for b, not for a"),
        (("-h", "-n", "*"), r"for \*"),
        (("-h", "-n", "a", "-V", "20200101:20200102"), "expired"),
        (("-h", "-n", "a", "-V", "20400101:20400102"), "not valid yet"),
        (("-h", "-n", "a", "-O", "critical:x=y"), "critical options"),
    ],
)
def test_a_certificate_is_checked_whole(options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    kind, blob, authority = made_certificate(tmp_path, *options)
    assert authority_of(blob) == authority
    certificate = read_certificate(kind, blob)
    assert certificate is not None
    problem = certificate_problem(certificate, "a", time.time(), [], blob)
    assert re.search(why, problem) if why else problem == ""
    none = certificate_problem(certificate, "a", time.time(), ["rsa-sha2-512"], blob)
    assert none, "this authority's algorithm is not allowed"


def test_a_certificate_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    kind, blob, _ = made_certificate(tmp_path, "-h", "-n", "aaaa")
    changed = blob.replace(b"aaaa", b"bbbb")
    certificate = read_certificate(kind, changed)
    assert certificate is not None
    assert "signature" in certificate_problem(certificate, "bbbb", time.time(), [], changed)
    for length in range(0, len(blob), 7):
        assert authority_of(blob[:length]) == b"?"


def test_a_file_that_may_not_be_read_is_refused(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = known(f"pi.example {LINE}\n")
    (tmp_path / "known_hosts").chmod(0)
    if os.access(tmp_path / "known_hosts", os.R_OK):  # root may read everything

        def denied(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(VerificationError, match="cannot be read"):
        check_host_key(settings, SHOWN, "")


def test_a_knownhostscommand_that_hangs_is_ended(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "COMMAND_SECONDS", 0.2)
    with pytest.raises(VerificationError, match="KnownHostsCommand failed"):
        check_host_key(known("", knownhostscommand="/bin/sleep 20"), SHOWN, "")
    with pytest.raises(VerificationError, match="KnownHostsCommand failed"):
        check_host_key(known("", knownhostscommand='/bin/echo "a'), SHOWN, "")


def test_a_home_of_another_account_is_found_or_refused(known: Known) -> None:
    settings, account = known(""), pwd.getpwuid(os.getuid())
    assert settings.path("IdentityFile", f"~{account.pw_name}/x") == f"{account.pw_dir}/x"
    assert settings.path("IdentityFile", "~/x") == f"{settings.home}/x"
    for text in ("~no-such-account/x", "~/%Z", "~/${NO_SUCH}"):
        with pytest.raises(UsageError, match="IdentityFile"):
            settings.path("IdentityFile", text)


def test_paths_that_ssh_g_does_not_quote_are_told_apart_by_what_exists() -> None:
    settings = SshSettings("pi", {"userknownhostsfile": ("/a b c /d /e f",)})
    files = {"/a b", "/a b c", "/d"}
    assert settings.files("userknownhostsfile", lambda path: path in files | {"/e f"}) == [
        *("/a b c", "/d", "/e f")
    ]
    with pytest.raises(UsageError, match="userknownhostsfile"):
        settings.files("userknownhostsfile", lambda path: path in files)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remotecommand", "uptime"),
        ("sessiontype", "none"),
        ("sessiontype", "subsystem"),
        ("bindinterface", "eth0"),
        ("pubkeyauthentication", "false"),
        ("preferredauthentications", "password,keyboard-interactive"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(known: Known, key: str, value: str) -> None:
    check_settings_can_be_honoured(known("", **{key: "none"} if key == "remotecommand" else {}))
    with pytest.raises(UsageError) as caught:
        check_settings_can_be_honoured(known("", **{key: value}))
    assert key in caught.value.what.lower()
    assert value in caught.value.what


CERT = "ssh-ed25519-cert-v01@openssh.com"
ALL = (CERT, "ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


@pytest.mark.parametrize(
    ("allowed", "line", "first"),
    [
        (ALL, "", CERT),
        (ALL, "* ssh-rsa", "rsa-sha2-512"),
        (ALL, "@cert-authority *", CERT),
        (ALL[1:], "* ssh-rsa", "rsa-sha2-512"),  # with a minus
        (("rsa-sha2-256", *ALL[:4]), "", "rsa-sha2-256"),  # in front
        (("rsa-sha2-256", "ssh-ed25519"), "* ssh-ed25519", "rsa-sha2-256"),  # a list of one's own
        ((*ALL, "ssh-rsa"), "* ssh-rsa", "rsa-sha2-512"),  # with a plus
    ],
)
def test_the_types_that_are_known_come_first_unless_the_user_orders_them(
    allowed: tuple[str, ...], line: str, first: str
) -> None:
    kind = line.rpartition(" ")[2] if "ssh" in line else "ssh-ed25519"
    blob = len(kind).to_bytes(4, "big") + kind.encode() + (32).to_bytes(4, "big") + bytes(32)
    names = line.removesuffix(kind).strip() or "none"
    text = f"{names} {kind} {base64.b64encode(blob).decode()}\n"
    order = host_key_order(allowed, ALL, ALL, read_known_hosts(text, "f", "pi"))
    assert order[0] == first
    assert sorted(order) == sorted(set(allowed) & set(ALL))


def test_half_a_key_is_no_key() -> None:
    assert parse_key(LINE) == ("ssh-ed25519", BLOB)
    for damaged in (LINE[:-9], LINE + "A", LINE.replace("ed25519 ", "rsa "), "ssh-ed25519", ""):
        assert parse_key(damaged) is None

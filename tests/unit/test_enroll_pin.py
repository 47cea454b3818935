"""A host key is pinned as OpenSSH would do it: `ssh-keygen -F` finds it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.fleet.enroll import hosts
from edgekit.fleet.enroll.hosts import HostKeyAsked, account_of, with_account
from edgekit.fleet.enroll.pin import pin, unpin
from edgekit.fleet.ssh.hostkeys import fingerprint, parse_key
from edgekit.fleet.ssh.settings import SshSettings
from edgekit.fleet.ssh.trust import ShownKey, UnknownHostKeyError
from tests import tools


def unknown(folder: Path, port: int = 22, **more: str) -> UnknownHostKeyError:
    """The key of a device, which no file knows."""
    key = folder / "key"
    if not key.exists():
        subprocess.run(
            [tools.find("ssh-keygen"), "-qt", "ed25519", "-N", "", "-f", key], check=True
        )
    kind, blob = parse_key(key.with_suffix(".pub").read_text()) or ("", b"")
    values = {
        "hostname": "pi.local",
        "port": str(port),
        "user": "pi",
        "userknownhostsfile": str(folder / "new" / "known_hosts"),
    }
    settings = SshSettings("pi", {name: (text,) for name, text in (values | more).items()})
    return UnknownHostKeyError(settings, ShownKey(kind, blob, 256), "why", "next")


def found_by_openssh(file: Path, name: str) -> bool:
    done = subprocess.run(
        [tools.find("ssh-keygen"), "-F", name, "-f", file], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("hashed", ["yes", "no"])
@pytest.mark.parametrize(("port", "name"), [(22, "pi.local"), (2222, "[pi.local]:2222")])
def test_openssh_finds_the_pinned_key(hashed: str, port: int, name: str, tmp_path: Path) -> None:
    path, line = pin(unknown(tmp_path, port, hashknownhosts=hashed))
    assert found_by_openssh(path, name)
    assert not found_by_openssh(path, "other.local")
    assert line.startswith("|1|") is (hashed == "yes")
    assert unpin(path, line)
    assert not path.exists(), "an empty file is nothing that was there before"


def test_other_lines_of_known_hosts_stay(tmp_path: Path) -> None:
    file = tmp_path / "new" / "known_hosts"
    file.parent.mkdir()
    before = b"# mine\nother ssh-ed25519 AAAA\xff"  # no last newline, no UTF-8
    file.write_bytes(before)
    path, line = pin(unknown(tmp_path))
    assert path.read_bytes().startswith(before + b"\n")
    assert unpin(path, line)
    assert path.read_bytes() == before + b"\n"
    assert not unpin(path, line)


@pytest.mark.parametrize("file", ["none", "/dev/null"])
def test_a_configuration_that_keeps_no_keys_is_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="cannot be pinned"):
        pin(unknown(tmp_path, userknownhostsfile=file))


def test_only_the_named_key_or_any_or_a_confirmed_one_is_pinned(tmp_path: Path) -> None:
    error = unknown(tmp_path)
    shown = fingerprint(error.blob)
    hosts._check(error, shown, HostKeyAsked(shown))
    hosts._check(error, shown, HostKeyAsked(accept_new=True))
    hosts._check(error, shown, HostKeyAsked(confirm=lambda text: shown in text))
    for refused in (
        HostKeyAsked(),
        HostKeyAsked(confirm=lambda _: False),
        HostKeyAsked("SHA256:other", accept_new=True),
    ):
        with pytest.raises(VerificationError):
            hosts._check(error, shown, refused)
    with pytest.raises(UsageError, match="is no fingerprint"):
        HostKeyAsked("MD5:00")


@pytest.mark.parametrize(
    ("address", "new"),
    [
        ("ssh:pi-1", "ssh:x@pi-1"),
        ("ssh:pi@10.0.0.1:2222", "ssh:x@10.0.0.1:2222"),
        ("ssh:pi@[fe80::1]:22", "ssh:x@[fe80::1]:22"),
        ("ssh://pi@host:2222", "ssh://x@host:2222"),
        ("ssh://host", "ssh://x@host"),
    ],
)
def test_an_address_gets_another_account(address: str, new: str) -> None:
    assert with_account(address, "x") == new
    assert account_of(new) == "x"

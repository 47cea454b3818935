"""The broker's files of a device: checked before they move, signed once, kept while good."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.enroll import make
from edgekit.fleet.enroll.carry import BrokerFiles, hardware, trust_root
from edgekit.fleet.enroll.certificates import LASTS, SigningAuthority
from edgekit.fleet.enroll.record import MadeLog
from tests.pki import Authority

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    (tmp_path / "ca.key").write_bytes(made.key_pem())
    return made


def request(folder: Path, name: str = "pi-1") -> str:
    """What the device's own script asks for; its key stays in the folder."""
    step = {"do": "key", "path": str(folder / "client.key"), "name": name}
    make.do_key(step, MadeLog(folder / "record"))
    return str(step["said"])


def test_openssl_agrees_with_the_certificate_that_a_device_gets(
    ca: Authority, tmp_path: Path
) -> None:
    told = json.loads(request(tmp_path))
    authority = SigningAuthority(ca.cert, tmp_path / "ca.key")
    made = authority.certificate_for("pi-1", told["request"], "", NOW)
    (tmp_path / "client.crt").write_bytes(made)
    verify = ("openssl", "verify", "-purpose", "sslclient", "-CAfile", str(ca.cert))
    done = subprocess.run(
        [*verify, str(tmp_path / "client.crt")], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    pair = (str(tmp_path / "client.crt"), str(tmp_path / "client.key"))
    BrokerFiles(ca.cert, *pair, None).check("x")
    assert (tmp_path / "client.key").stat().st_mode & 0o777 == 0o600
    again = json.loads(request(tmp_path))
    assert again["certificate"].encode() == made
    args = ("pi-1", again["request"], again["certificate"])
    assert authority.certificate_for(*args, NOW) == made, "it is kept"
    half = datetime.timedelta(hours=13)  # the CA of the tests lasts a day, and so does its word
    assert authority.certificate_for(*args, NOW + half) != made, "it is renewed in time"
    with pytest.raises(UsageError, match="the CA has expired"):
        authority.certificate_for(*args, NOW + LASTS)
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    (tmp_path / "other.key").write_bytes(other.key_pem())
    theirs = SigningAuthority(other.cert, tmp_path / "other.key")
    assert theirs.certificate_for(*args, NOW) != made, "another CA's is no good"


def test_a_request_of_another_name_is_refused(ca: Authority, tmp_path: Path) -> None:
    authority = SigningAuthority(ca.cert, tmp_path / "ca.key")
    told = json.loads(request(tmp_path, "pi-2"))
    with pytest.raises(EdgekitError, match="asks for the certificate of"):
        authority.certificate_for("pi-1", told["request"], "", NOW)
    with pytest.raises(EdgekitError, match="made no request"):
        authority.certificate_for("pi-1", "none", "", NOW)


def test_files_that_do_not_belong_together_never_move(ca: Authority, tmp_path: Path) -> None:
    one, two = ca.issue("pi-1"), ca.issue("pi-2")
    locked = ca.issue("pi-3", passphrase="secret")
    good = BrokerFiles(
        ca.cert, str(tmp_path / "{device}.crt"), str(tmp_path / "{device}.key"), None
    )
    good.check("pi-1")
    assert [str(one.name) for one in good.carried("pi-2")] == [
        "etc/broker/ca.crt",
        "etc/broker/client.crt",
        "etc/broker/client.key",
    ]
    for certificate, key in (
        (one.cert, two.key),
        (one.cert, tmp_path / "none"),
        (one.key, one.key),
        (locked.cert, locked.key),
    ):
        with pytest.raises(UsageError, match="are not a certificate and its private key"):
            BrokerFiles(ca.cert, str(certificate), str(key), None).check("pi-1")
    with pytest.raises(UsageError, match="is not the file of a CA"):
        BrokerFiles(one.key, "", "", None).check("pi-1")
    with pytest.raises(UsageError, match="is not the private key of"):
        BrokerFiles(ca.cert, "", "", one.key).check("pi-1")
    with pytest.raises(UsageError, match="cannot sign"):
        BrokerFiles(ca.cert, "", "", tmp_path / "none").check("pi-1")
    for wrong in ((None, "", "", one.key), (ca.cert, "a", "b", one.key), (None, "a", "", None)):
        with pytest.raises(UsageError):
            BrokerFiles(*wrong)


def test_the_newest_root_of_trust_goes_along_and_names_of_hardware_are_checked(
    tmp_path: Path,
) -> None:
    assert trust_root(tmp_path) == []
    (tmp_path / "trust").mkdir()
    for name in ("1.root.json", "10.root.json", "9.root.json", "x.root.json", "11.targets.json"):
        (tmp_path / "trust" / name).write_text(name)
    (one,) = trust_root(tmp_path)
    assert (str(one.name), one.data, one.keep) == ("etc/trust/root.json", b"10.root.json", True)
    (file,) = hardware(["pi5", "cam-2", "pi5"])
    assert file.data == b"pi5\ncam-2\n"
    assert hardware(None) == []
    with pytest.raises(UsageError, match="cannot be a name of hardware"):
        hardware(["a b"])

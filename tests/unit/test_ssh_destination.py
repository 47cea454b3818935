"""Addresses of SSH devices: what is read, and what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.cli.project import parse_broker
from edgekit.core.config import BrokerConfig
from edgekit.errors import UsageError
from edgekit.fleet import inventory
from edgekit.fleet.ssh.destination import Destination, parse_destination


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("pi", "pi", "", 0),
        ("pi@pi-1.local", "pi-1.local", "pi", 0),
        ("pi@pi-1.local:2222", "pi-1.local", "pi", 2222),
        ("a@b@host", "host", "a@b", 0),
        ("[::1]", "::1", "", 0),
        ("[::1]:2222", "::1", "", 2222),
        ("pi@[fe80::1%eth0]:22", "fe80::1%eth0", "pi", 22),
        ("::1", "::1", "", 0),
        ("pi@fe80::1", "fe80::1", "pi", 0),
        ("[host]:22", "host", "", 22),
        ("ssh://pi@host:22", "host", "pi", 22),
        ("//pi@host:22/", "host", "pi", 22),
        ("ssh://p%69;x=y@[::1]:9", "::1", "pi", 9),
    ],
)
def test_an_address_is_read(text: str, host: str, user: str, port: int) -> None:
    assert parse_destination(text) == Destination(host, user, port)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no host"),
        (":22", "no host"),
        ("pi@", "no host"),
        ("@host", "no user"),
        ("host:", "a port"),
        ("host:ssh", "a port"),
        ("host:0", "a port"),
        ("host:65536", "a port"),
        ("host:2²", "a port"),
        ("host:-1", "a port"),
        ("1:2:3", "no IPv6 address"),
        ("[::1", "no IPv6 address"),
        ("[::g]:22", "no IPv6 address"),
        ("[::1]22", "no IPv6 address"),
        ("ho[s]t", "an address is"),
        ("-oProxyCommand=id", "a host is not called"),
        ("-l@host", "a user is not called"),
        ("host;id", "a host is not called"),
        ("$(id)@host", "a user is not called"),
        ("ho st", "a host is not called"),
        ("host\n", "a host is not called"),
        ("ssh://host/etc", "no path"),
        ("ssh://$x%24(id)@host", "a user is not called"),
    ],
)
def test_another_address_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_destination(text)
    assert why in caught.value.why
    assert repr(text) in caught.value.what


def test_a_bad_address_names_file_and_device(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[devices.pi]\naddress = "ssh:host:ssh"\n')
    with pytest.raises(UsageError) as caught:
        inventory.load(path)
    assert f"{path}: the address of pi is 'ssh:host:ssh'" in caught.value.what
    assert "not 'ssh'" in caught.value.why


@pytest.mark.parametrize(
    "address", ["ssh:[::1]:2222", "ssh:pi@[fe80::1%eth0]:22", "ssh:::1", "ssh://pi@host:22"]
)
def test_ipv6_and_uris_stand_in_fleet_toml(address: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(f'[devices.pi]\naddress = "{address}"\n')
    assert inventory.load(path).devices["pi"].address == address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("broker", "broker", 1883),
        ("broker:9", "broker", 9),
        ("[::1]:9", "::1", 9),
        ("[::1]", "::1", 1883),
        ("::1", "::1", 1883),
    ],
)
def test_a_broker_on_the_command_line_may_have_an_ipv6_address(
    text: str, host: str, port: int
) -> None:
    told = parse_broker(text, BrokerConfig())
    assert (told.host, told.port) == (host, port)

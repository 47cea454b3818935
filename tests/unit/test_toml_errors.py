"""fleet.toml, edgekit.toml and build.toml: a wrong key or value is named with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.cli import project
from edgekit.cli.model import buildfile
from edgekit.errors import UsageError
from edgekit.fleet import inventory

PI = '[devices.pi-1]\naddress = "ssh:pi"\n'


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        (f"{PI}treads = 2\n", "the device pi-1", "line 3: .*`treads`; did you mean `threads`"),
        (f'{PI}\n\nthreads = "two"\n', "the device pi-1", r"line 5: .*at `\$\.threads`"),
        (f"{PI}pools = [1]\n", "the device pi-1", r"line 3: .*`\$\.pools\[0\]`"),
        (f"{PI}root = 7\n", "the device pi-1", "line 3: Expected `str`"),
        (f"{PI}metrics_port = 70000\n", "the device pi-1", "metrics_port 70000 is not between"),
        (f"{PI}trial_seconds = nan\n", "the device pi-1", "trial_seconds must be above 0"),
        (f"{PI}drain_seconds = inf\n", "the device pi-1", "drain_seconds must be 0 to 86400"),
        (f"{PI}slots = -1\n", "the device pi-1", "slots must be 0 or more"),
        (f"{PI}max_beams = 0\n", "the device pi-1", "max_beams must be 1 or more"),
        (f'{PI}root = "a\\u0000b"\n', "the device pi-1", "root has a control character"),
        (f'{PI}python = ""\n', "the device pi-1", "python is empty"),
        ("[devices.pi-1]\n", "the device pi-1", "line 1: .*`address`"),
        ("[devices]\npi-1 = 3\n", "the device pi-1", "line 2: Expected `object`"),
        (f'{PI}broker = {{ port = "x" }}\n', "the broker of pi-1", r"line 3: .*`\$\.port`"),
        (f"{PI}[devices.pi-1.broker]\nprot = 5\n", "the broker of pi-1", "line 4.*mean `port`"),
        (f"{PI}broker.prot = 5\n", "the broker of pi-1", "line 3: .*mean `port`"),
        (f"{PI}[broker]\nport = true\n", r"\[broker\]", "line 4: Expected `int`"),
        (f'{PI}[groups]\nall = "pi-1"\n', "the group all", "line 4: Expected `array`"),
        (f'{PI}[groups]\nall = ["pi-2"]\n', "group all names 'pi-2'", ""),
        ('[device.pi-1]\naddress = "x"\n', "fleet.toml is", "line 1: .*mean `devices`"),
        ('[devices."pi 1"]\naddress = "x"\n', "'pi 1' cannot be a device's name", "1 to 64"),
        (f"{PI}address = 1\n", "fleet.toml is", "line 3"),
        ("[devices.pi-1\n", "fleet.toml is", "line 1"),
    ],
)
def test_an_error_in_fleet_toml_names_file_device_and_line(
    tmp_path: Path, text: str, what: str, why: str
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=what) as raised:
        inventory.load(path)
    assert str(path) in raised.value.what
    assert re.search(why, raised.value.why), raised.value.why


def test_a_broker_that_does_not_fit_together_is_named_with_file_and_device(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(f'{PI}broker = {{ cert_file = "/a" }}\n')
    fleet = inventory.load(path)
    with pytest.raises(UsageError, match=r"fleet\.toml: the \[broker\] of pi-1") as raised:
        fleet.broker_of("pi-1", project.ProjectConfig().broker)
    assert "cert_file" in raised.value.why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[broker]\nprot = 5\n", "line 2: .*`prot`"),
        (b'requester = "a"\nrequestor = "b"\n', "line 2: .*did you mean `requester`"),
        (b'[broker]\nport = "x"\n', r"line 2: .*`\$\.broker\.port`"),
        (b"# gr\xfc\xdfe\n", "line 1 is not UTF-8: it has the byte 0xfc"),
        (b"[broker\n", "line 1"),
    ],
)
def test_an_error_in_edgekit_toml_names_file_and_line(
    tmp_path: Path, data: bytes, why: str
) -> None:
    (tmp_path / "edgekit.toml").write_bytes(data)
    with pytest.raises(UsageError, match=r"edgekit\.toml is not valid") as raised:
        project.find(tmp_path)
    assert re.search(why, raised.value.why), raised.value.why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'modle = "x"\n', "line 1: .*did you mean `model`"),
        (b"\ncontext = 0\n", r"line 2: .*`\$\.context`"),
        (b'[thresholds]\nkl = "a lot"\n', r"line 1: .*`\$\.thresholds"),
        (b"\n\xff\n", "line 2 is not UTF-8"),
        (b"a = \n", "line 1"),
    ],
)
def test_an_error_in_build_toml_names_file_and_line(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "build.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"build\.toml is not valid") as raised:
        buildfile.load(path)
    assert re.search(why, raised.value.why), raised.value.why


def test_a_mark_of_byte_order_is_no_error(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    (tmp_path / "edgekit.toml").write_bytes(b'\xef\xbb\xbfrequester = "alice"\r\n')
    assert project.find(tmp_path).config.requester == "alice"

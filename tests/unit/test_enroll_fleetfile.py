"""Enrolling changes a device's keys in fleet.toml, and not a byte beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.cli.device.enroll import _edit
from edgekit.fleet.enroll.fleetfile import by_hand, edited

TEXT = """\
# ours
[broker]
host = "b"   # everywhere

[devices.pi-1]
# the kitchen
address = "ssh:pi@pi-1"  # with sudo
tags = ["a", "b"]


[devices."pi.2"]
address='ssh:pi@pi-2'
[groups]
all = ["pi-1", "pi.2"]
"""


def test_a_value_changes_in_its_place_and_its_comment_stays() -> None:
    new = edited(TEXT, "pi-1", {"address": "ssh:edgekit-push@pi-1"})
    assert new == TEXT.replace('"ssh:pi@pi-1"', '"ssh:edgekit-push@pi-1"')


def test_a_new_key_goes_behind_the_last_one_of_its_table() -> None:
    new = edited(TEXT, "pi-1", {"root": "/var/lib/edgekit", "broker": {"ca_file": "/c"}})
    more = 'root = "/var/lib/edgekit"\nbroker = { ca_file = "/c" }\n'
    assert new == TEXT.replace('tags = ["a", "b"]\n', 'tags = ["a", "b"]\n' + more)


def test_what_enrolling_wrote_is_taken_out_again_byte_by_byte() -> None:
    values = {"address": "ssh:edgekit-push@pi-2", "root": "/var/lib/edgekit"}
    new = edited(TEXT, "pi.2", values)
    assert new is not None
    assert new != TEXT
    back = edited(new, "pi.2", {"address": "ssh:pi@pi-2", "root": None})
    assert back == TEXT.replace("address='ssh:pi@pi-2'", 'address = "ssh:pi@pi-2"')


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_line_ends_stay(end: str) -> None:
    text = TEXT.replace("\n", end)
    new = edited(text, "pi-1", {"address": "ssh:x", "root": "/r"})
    assert new is not None
    assert new.count(end) == text.count(end) + 1
    assert (new.count("\n") == new.count("\r\n")) is (end == "\r\n")


@pytest.mark.parametrize(
    "text",
    [
        'devices.pi-1.address = "ssh:a"\n',
        'devices = { pi-1 = { address = "ssh:a" } }\n',
        '[devices.pi-1]\naddress = """\nssh:a"""\n',
        '[devices.pi-1]\ntags = [\n"address = 1",\naddress\n]\n',
        '[devices.pi-2]\naddress = "ssh:a"\n',
        "not toml [",
    ],
)
def test_a_file_in_another_form_is_left_to_a_person(text: str) -> None:
    assert edited(text, "pi-1", {"address": "ssh:b"}) is None


def test_a_table_of_its_own_is_not_written_twice() -> None:
    text = '[devices.a]\naddress = "ssh:a"\n[devices.a.broker]\nport = 1\n'
    assert edited(text, "a", {"broker": {"ca_file": "/c"}}) is None
    assert edited(text, "a", {"address": "ssh:b"}) == text.replace("ssh:a", "ssh:b")


def test_a_file_without_a_last_newline() -> None:
    assert edited('[devices.a]\naddress = "ssh:a"', "a", {"root": "/r"}) == (
        '[devices.a]\naddress = "ssh:a"\nroot = "/r"\n'
    )
    assert edited("[devices.a]", "a", {"root": "/r"}) == '[devices.a]\nroot = "/r"\n'


def test_what_is_left_to_a_person_is_toml() -> None:
    said = by_hand("pi.2", {"address": 'a"b', "root": None})
    assert said == '[devices."pi.2"]: address = "a\\"b"; without root'


def test_a_fleet_toml_that_is_a_link_stays_one_and_keeps_its_rights(tmp_path: Path) -> None:
    """One file for several projects, or one that a tool of dotfiles keeps elsewhere."""
    shared, link = tmp_path / "shared.toml", tmp_path / "fleet.toml"
    shared.write_text(TEXT)
    shared.chmod(0o664)
    link.symlink_to(shared)
    _edit(link, "pi-1", {"root": "/r"})
    assert link.is_symlink()
    assert 'root = "/r"' in shared.read_text()
    assert shared.stat().st_mode & 0o777 == 0o664
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.toml", "shared.toml"]

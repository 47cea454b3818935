"""`[transfer]` of fleet.toml: the caps of a fleet and of its devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.fleet import inventory
from edgekit.fleet.connections import cap_of
from edgekit.fleet.transfer.cap import Cap

FLEET = """
[transfer]
mbit_per_second = 200
device_mbit_per_second = 50

[devices.pi-1]
address = "ssh:pi-1"

[devices.pi-2]
address = "ssh:pi-2"
transfer_mbit_per_second = 4.5

[devices.pi-3]
address = "ssh:pi-3"

[groups.far]
members = ["pi-3"]
transfer_mbit_per_second = 8
"""


def load(folder: Path, text: str) -> inventory.Fleet:
    (folder / "fleet.toml").write_text(text)
    return inventory.load(folder / "fleet.toml")


def test_a_device_has_its_own_cap_else_its_groups_else_that_of_each(tmp_path: Path) -> None:
    fleet = load(tmp_path, FLEET)
    assert fleet.transfer.mbit_per_second == 200
    waits: list[float] = []
    for name, seconds in (("pi-1", 8.0), ("pi-2", 8 * 50 / 4.5), ("pi-3", 50.0)):
        cap = cap_of(fleet, name, Cap())
        cap._clock, cap._sleep = (lambda: 0.0), waits.append
        cap._paid_until = 0.0
        cap.take(50_000_000)
        assert waits.pop() == pytest.approx(seconds)


def test_without_the_table_nothing_is_capped(tmp_path: Path) -> None:
    fleet = load(tmp_path, '[devices]\npi = {address = "ssh:pi"}\n')
    cap = cap_of(fleet, "pi", Cap(fleet.transfer.mbit_per_second))
    cap._sleep = lambda _: pytest.fail("it waits")
    cap.take(10**12)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("[transfer]\nmbit = 3\n", "unknown field `mbit`"),
        ("[transfer]\nmbit_per_second = -1\n", "mbit_per_second must be 0.05 to 1000000, or 0"),
        ("[transfer]\ndevice_mbit_per_second = 0.001\n", "device_mbit_per_second must be"),
        ("[transfer]\nmbit_per_second = nan\n", "mbit_per_second must be"),
        ('[transfer]\nmbit_per_second = "9"\n', "Expected `float`"),
        ("[devices.pi]\naddress='ssh:pi'\ntransfer_mbit_per_second = -2\n", "must be 0.05"),
    ],
)
def test_a_cap_that_is_none_is_refused_by_name(tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(tmp_path, table)
    assert why in raised.value.why

"""What an operator sets for rollouts: fleet.toml, flags that win, windows of devices and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.errors import UsageError
from edgekit.fleet import inventory
from edgekit.fleet.rollout.settings import RolloutSettings, terms_of
from edgekit.fleet.rollout.waves import Terms
from edgekit.fleet.rollout.windows import zones
from edgekit.fleet.rollout.windows.zones import check_zones, device_windows, local_zone

FLEET = """
[rollout]
parallel = 4
soak_seconds = 60
failures = 2
failure_share = 0.1
shares = [0.1, 1.0]
confirm = true
hook_before = ["./check.sh", "with a word"]
hook_seconds = 30
window = "22:00-05:00"

[devices.pi-1]
address = "ssh:pi-1"
[devices.pi-2]
address = "ssh:pi-2"
window = "always"
[devices.tokyo-1]
address = "ssh:tokyo-1"

[groups.tokyo]
members = ["tokyo-1"]
window = "mon-fri 01:00-04:00 Asia/Tokyo"
"""


def load(folder: Path, text: str) -> inventory.Fleet:
    (folder / "fleet.toml").write_text(text)
    return inventory.load(folder / "fleet.toml")


def own(fleet: inventory.Fleet) -> dict[str, str]:
    return {name: device.window for name, device in fleet.devices.items()}


def test_the_file_makes_terms_and_a_flag_wins(tmp_path: Path) -> None:
    rollout = load(tmp_path, FLEET).rollout
    assert terms_of(rollout) == Terms(
        parallel=4,
        soak_seconds=60,
        failures=2,
        failure_share=0.1,
        confirm=True,
        hook_before=["./check.sh", "with a word"],
        hook_seconds=30,
    )
    changed = rollout.with_flags(parallel=1, confirm=False, soak_seconds=None, shares=[0.5, 1.0])
    assert (changed.parallel, changed.confirm, changed.soak_seconds) == (1, False, 60)
    assert changed.shares == [0.5, 1.0]
    assert terms_of(changed, stage_only=True).stage_only


def test_a_file_without_the_table_means_the_defaults(tmp_path: Path) -> None:
    fleet = load(tmp_path, '[devices.a]\naddress = "local:a"\n')
    assert terms_of(fleet.rollout) == Terms()
    assert device_windows(own(fleet), fleet.rollout) == {}


def test_every_term_but_the_flag_stage_only_is_a_key_of_the_file() -> None:
    known = set(RolloutSettings.__struct_fields__)
    assert set(Terms.__struct_fields__) - known == {"stage_only"}
    assert known - set(Terms.__struct_fields__) == {"shares", "window"}
    defaults = {field.name: field.default for field in msgspec.structs.fields(Terms)}
    for field in msgspec.structs.fields(RolloutSettings):
        if field.name in defaults:
            assert field.default == defaults[field.name], field.name


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("paralel = 2", "did you mean `parallel`"),
        ("parallel = 0", "parallel and connects are 1 or more"),
        ("connects = 0", "parallel and connects are 1 or more"),
        ("failure_share = 5", "failure_share is between 0 and 1"),
        ('failure_share = "5%"', "Expected `float`, got `str`"),
        ("failures = -1", "failures is not negative"),
        ("soak_seconds = -1", "soak_seconds is 0 to 86400"),
        ("lock_wait_seconds = 1e9", "lock_wait_seconds is 0 to 86400"),
        ("hook_seconds = 0", "hook_seconds is above 0"),
        ('hook_after = "check.sh"', "Expected `array`, got `str`"),
        ('hook_after = [""]', "hook_after begins with the name of a program"),
        ("shares = [0.5]", "shares grow from above 0 to 1.0"),
        ("shares = [0.5, 0.5, 1.0]", "shares grow from above 0 to 1.0"),
        ("shares = [0.0, 1.0]", "shares grow from above 0 to 1.0"),
        ('window = "at night"', "is no window"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_its_line(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(UsageError, match=r"fleet.toml: \[rollout\] is not valid") as refused:
        load(tmp_path, f"[rollout]\n{line}\n")
    assert why in refused.value.why
    assert refused.value.why.startswith(("line 1: ", "line 2: "))


def test_a_wrong_window_of_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the device a is not valid") as refused:
        load(tmp_path, '[devices.a]\naddress = "local:a"\nwindow = "22-5"\n')
    assert "'22-5' is no window" in refused.value.why


def test_a_wrong_flag_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="--failure-share: the value is not valid"):
        RolloutSettings().with_flags(failure_share=2.0)
    with pytest.raises(UsageError, match="--lock-wait: the value is not valid"):
        RolloutSettings().with_flags(lock_wait_seconds=-1.0)


def test_a_device_then_its_group_then_the_fleet_say_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    fleet = load(tmp_path, FLEET)
    assert device_windows(own(fleet), fleet.rollout) == {
        "pi-1": "22:00-05:00 Europe/Berlin",
        "tokyo-1": "mon,tue,wed,thu,fri 01:00-04:00 Asia/Tokyo",
    }
    assert device_windows(own(fleet), fleet.rollout, flag="always") == {}
    told = device_windows(own(fleet), fleet.rollout, flag="sun 01:00-02:00")
    assert set(told.values()) == {"sun 01:00-02:00 Europe/Berlin"}
    with pytest.raises(UsageError, match="a window cannot be read"):
        device_windows(own(fleet), fleet.rollout, flag="soon")
    with pytest.raises(UsageError, match="a window cannot be read"):
        device_windows(own(fleet), fleet.rollout, flag="")  # a variable that nobody has set
    with pytest.raises(UsageError, match="does not know the time zone Mars/Olympus"):
        check_zones({"pi-1": "01:00-02:00 Mars/Olympus"})


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd", "CET-1CEST"])
def test_a_zone_that_this_machine_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    with pytest.raises(UsageError, match=f"does not know the time zone {zone}"):
        local_zone()
    if zone[0].isupper() and "-" not in zone:
        settings: Any = RolloutSettings(window=f"22:00-05:00 {zone}")
        with pytest.raises(UsageError, match="Atlantis"):
            device_windows({"a": ""}, settings)


def test_the_zone_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    link = tmp_path / "localtime"
    assert local_zone(link) == "UTC"
    link.symlink_to(zones.__file__)
    with pytest.raises(UsageError, match="has no name"):
        local_zone(link)
    link.unlink()
    link.symlink_to("/usr/share/zoneinfo/America/New_York")
    assert local_zone(link) == "America/New_York"
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert local_zone(link) == "Asia/Tokyo"

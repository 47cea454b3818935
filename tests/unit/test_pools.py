"""Pools from fleet.toml to what the agent is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.core.config import parse_agent_config
from edgekit.core.protocol import topics
from edgekit.errors import UsageError
from edgekit.fleet import inventory


def fleet(folder: Path, pools: str) -> inventory.Fleet:
    path = folder / "fleet.toml"
    path.write_text(f'[devices.pi-1]\naddress = "ssh:pi-1"\npools = {pools}\n')
    return inventory.load(path)


def test_a_device_says_in_fleet_toml_which_pools_it_serves(tmp_path: Path) -> None:
    assert fleet(tmp_path, '["sensors", "kitchen"]').devices["pi-1"].pools == ["sensors", "kitchen"]


@pytest.mark.parametrize("name", ["a/b", "+", "", "#"])
def test_a_pool_that_is_no_topic_level_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="pool"):
        fleet(tmp_path, f'["{name}"]')
    with pytest.raises(UsageError) as caught:
        parse_agent_config(f'device = "pi"\npools = ["{name}"]\n'.encode())
    assert "pool" in caught.value.why


def test_members_of_a_pool_share_one_subscription() -> None:
    assert topics.pool_filter("sensors") == "$share/ek.sensors/edgekit/v1/req/pool/sensors/+"
    assert not topics.is_control(topics.pool_request_topic("sensors", "a"))
    assert topics.is_control(topics.pool_control_topic("sensors", "a"))

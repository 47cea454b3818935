"""A requester without measure at a device that has no limits of its own: others are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attackers import Attacked, attacked, flooded_to_idle, seconds

pytestmark = pytest.mark.timeout(300)

ATTEMPTS = 3
LONG = {"messages": [{"role": "user", "content": "A lamp. " * 150}]}
FLOODS: dict[str, dict[str, Any]] = {
    "short answers": {},
    "long answers": {"max_tokens": 400},
    "long prompts": {**LONG, "max_tokens": 1},
}


@pytest.fixture(scope="module")
def device(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attacked(tmp_path_factory.mktemp("flooded"), smollm2) as device:
        yield device


@pytest.mark.parametrize("name", FLOODS)
def test_another_is_served_within_twice_its_idle_time_without_any_limit(
    device: Attacked, name: str
) -> None:
    victim = device.stranger("victim")
    seconds(victim)
    for _ in range(ATTEMPTS):  # others use this machine, too
        ratio = flooded_to_idle(device, victim, "mallory", **FLOODS[name])
        if ratio < 2:
            return
    pytest.fail(f"{ratio:.1f} times as long as without the flood")

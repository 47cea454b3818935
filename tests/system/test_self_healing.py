"""A device without a controller, and releases that are bad only when they run: two of the five of
`python -m tests.show self-healing`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.show.self_healing import heal

pytestmark = pytest.mark.timeout(590)


def test_the_device_rolls_back_alone(smollm2: Path, tmp_path: Path) -> None:
    rubbish, memory = heal(tmp_path, smollm2, ("rubbish", "memory"))
    assert (rubbish.name, rubbish.back) == ("rubbish", True)
    assert "nats per token less likely" in rubbish.reason or "certain positions" in rubbish.reason
    assert (memory.name, memory.back) == ("memory", True)
    assert "MB of memory, the cap is" in memory.reason

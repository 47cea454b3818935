"""The count `gateway-clients` with fewer streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.show import gateway_clients


@pytest.mark.timeout(240)
def test_streams_at_once_and_kills_under_load(tmp_path: Path) -> None:
    figures, sound = gateway_clients.measured(tmp_path, 16, 4)
    assert sound, figures

"""The count `fleet-arm64`: a good and a bad release on devices of two architectures."""

from __future__ import annotations

import pytest

from tests.show import fleet_arm64

pytestmark = pytest.mark.timeout(1200)


def test_an_arm64_device_takes_its_own_layers_and_no_damaged_model() -> None:
    figures, sound = fleet_arm64.count()
    assert sound, figures

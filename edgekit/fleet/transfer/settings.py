"""`[transfer]` of fleet.toml: how fast bytes may leave for devices. Pure."""

from __future__ import annotations

import msgspec

LEAST_MBIT = 0.05  # below it a piece takes longer than a silent link is waited for


def check_rate(name: str, mbit_per_second: float) -> None:
    """Check a cap; raises ValueError when it is negative or stops a transfer."""
    if mbit_per_second != 0 and not LEAST_MBIT <= mbit_per_second <= 1e6:
        raise ValueError(f"{name} must be {LEAST_MBIT:g} to 1000000, or 0 for no cap")


class TransferSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The caps of a fleet in million bits per second; 0: none."""

    mbit_per_second: float = 0.0  # for all devices together
    device_mbit_per_second: float = 0.0  # for each, unless it has transfer_mbit_per_second

    def __post_init__(self) -> None:
        check_rate("mbit_per_second", self.mbit_per_second)
        check_rate("device_mbit_per_second", self.device_mbit_per_second)

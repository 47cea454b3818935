"""How fast the last transfer to each device was: a file of the project, for the next plan."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.store import publish

LEAST_BYTES = 1_000_000  # a shorter transfer measures the start of its connection


def read_rates(file: Path) -> dict[str, float]:
    """Bytes per second by device; none where the file is missing or cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    except (OSError, *UNREADABLE):
        return {}


def note_rate(file: Path, device: str, sent: int, seconds: float) -> None:
    """Remember a transfer of `sent` bytes, if it was long enough to measure."""
    if sent >= LEAST_BYTES and seconds > 0:
        rates = read_rates(file) | {device: sent / seconds}
        publish(file, msgspec.json.encode(rates, order="sorted"), 0o600)

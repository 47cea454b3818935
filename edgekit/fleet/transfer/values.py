"""What a transfer brings, and over how many connections at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.digest import Digest

FEWEST_CONNECTIONS, MOST_CONNECTIONS = 2, 8
SEGMENT_BYTES = (1 << 20) - (4 << 10)  # with the head of its answer: whole packets
SMALL_BYTES = 8 << 20  # a pull for each would take longer than its bytes
LEAST_PULL_BYTES = 1 << 20  # fewer are sent before a pull has begun


@dataclass(frozen=True, slots=True)
class WantedBlob:
    """A blob that a device lacks.

    Attributes:
        digest: its digest.
        source: our file with its bytes.
        target: the path on the device of the part that collects them.
        size: bytes of the blob.
        have: how many bytes the part has already.
    """

    digest: Digest
    source: Path
    target: str
    size: int
    have: int = 0

    @property
    def lacking(self) -> int:
        """Bytes that have to be sent."""
        return self.size - self.have


def batches(blobs: Sequence[WantedBlob]) -> list[list[WantedBlob]]:
    """The blobs in their order, small ones together: each batch is verified before the next."""
    found: list[list[WantedBlob]] = []
    small: list[WantedBlob] = []
    for blob in blobs:
        if blob.lacking < SMALL_BYTES:
            small.append(blob)
        else:
            found.append([blob])
    return [small, *found] if small else found


def connections_for(rtt_seconds: float) -> int:
    """How many connections fill a link of 1.6 Gbit/s.

    sshd gives each a window of 2 MiB: no more is under way at once, so one connection brings 2 MiB
    per round trip.
    """
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, math.ceil(rtt_seconds * 100)))


def ahead_for(rtt_seconds: float) -> int:
    """How many segments one connection asks for ahead, so that it never waits for a request.

    Two windows' worth at a long way; on a short one the device's memory is worth more.
    """
    return 2 if rtt_seconds < 0.01 else 4

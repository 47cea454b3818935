"""What the gateway tells Prometheus: counts, and neither texts nor names. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from edgekit.core.protocol.exposition import Family
from edgekit.gateway.catalog import Served


class Counts(Protocol):
    """What is told; a hub has it."""

    known: dict[str, Served]
    requests: Counter[int]
    streams: int
    elsewhere: int

    @property
    def connected(self) -> bool:
        """Whether the broker answers."""


def families(counts: Counts) -> list[Family]:
    """The metrics of a gateway."""
    return [
        Family(
            "edgekit_gateway_requests_total",
            "counter",
            "Requests answered, by status of HTTP, or of the error in which a stream ended.",
            _by("status", {str(status): n for status, n in sorted(counts.requests.items())}),
        ),
        Family(
            "edgekit_gateway_answers_under_way",
            "gauge",
            "Prompts that wait or are being answered.",
            (({}, counts.streams),),
        ),
        Family(
            "edgekit_gateway_elsewhere_total",
            "counter",
            "Prompts sent to another device, because the one before did not accept them.",
            (({}, counts.elsewhere),),
        ),
        Family(
            "edgekit_gateway_devices",
            "gauge",
            "Devices by the state that they have announced.",
            _by("state", Counter(each.state or "unknown" for each in counts.known.values())),
        ),
        Family(
            "edgekit_gateway_broker_connected",
            "gauge",
            "1 while the broker answers.",
            (({}, int(counts.connected)),),
        ),
    ]


def _by(label: str, values: Mapping[str, int]) -> tuple[tuple[dict[str, str], float], ...]:
    return tuple(({label: name}, count) for name, count in sorted(values.items()))

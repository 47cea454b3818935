"""Metrics as values, and their two formats: Prometheus' text and JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' exposition formats

Labels = dict[str, str]


class Buckets(msgspec.Struct, frozen=True):
    """A histogram at one moment.

    Attributes:
        cumulative: the number of values up to each bound; the last bound is `+Inf`.
        total: the sum of all values.
    """

    cumulative: tuple[tuple[str, int], ...]
    total: float


class Family(msgspec.Struct, frozen=True):
    """One metric with its samples, one for each set of labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    samples: tuple[tuple[Labels, float | Buckets], ...]


def prometheus(families: Sequence[Family]) -> bytes:
    """Format metrics as Prometheus' text, version 0.0.4. Unknown values are left out."""
    lines = []
    for family in families:
        lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
        for labels, value in family.samples:
            if not isinstance(value, Buckets):
                lines.append(f"{family.name}{_labels(labels)} {value}")
                continue
            count = 0
            for bound, count in value.cumulative:
                lines.append(f"{family.name}_bucket{_labels(labels | {'le': bound})} {count}")
            lines.append(f"{family.name}_sum{_labels(labels)} {value.total}")
            lines.append(f"{family.name}_count{_labels(labels)} {count}")
    return ("\n".join(lines) + "\n").encode()


def _labels(labels: Labels) -> str:
    escaped = (
        value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        for value in labels.values()
    )
    inside = ",".join(f'{name}="{value}"' for name, value in zip(labels, escaped, strict=True))
    return f"{{{inside}}}" if inside else ""


def as_json(families: Sequence[Family]) -> bytes:
    """Format metrics as JSON for the metrics topic.

    A metric without labels is a number, any other a list with an object for each set of labels.
    """
    body: dict[str, Any] = {}
    for family in families:
        samples: list[dict[str, Any]] = []
        for labels, value in family.samples:
            if isinstance(value, Buckets):
                buckets = dict(value.cumulative)
                counted = {"count": buckets["+Inf"], "sum": value.total, "buckets": buckets}
                samples.append({"labels": labels} | counted)
            elif labels:
                samples.append({"labels": labels, "value": value})
            else:
                body[family.name] = value
        if samples:
            body[family.name] = samples
    return msgspec.json.encode(body)

"""Three kinds of small charts as SVG text, for a page that opens without a network. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 12, 12, 32
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM


def _axes(low: float, high: float, across: str, up: str) -> list[str]:
    """Frame, three marks on the vertical axis, and both labels."""
    middle = _TOP + _PLOT_HEIGHT / 2
    parts = [
        (
            f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_PLOT_WIDTH}" '
            f'height="{_PLOT_HEIGHT}"/>'
        ),
        (
            f'<text class="label" x="{_LEFT + _PLOT_WIDTH / 2}" y="{HEIGHT - 4}">'
            f"{escape(across)}</text>"
        ),
        (
            f'<text class="label" x="12" y="{middle}" transform="rotate(-90 12 {middle})">'
            f"{escape(up)}</text>"
        ),
    ]
    for share in (0.0, 0.5, 1.0):
        y = _TOP + _PLOT_HEIGHT * (1 - share)
        value = low + (high - low) * share
        parts.append(f'<text x="{_LEFT - 4}" y="{y + 4:.1f}" class="mark">{value:.3g}</text>')
    return parts


def _svg(title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def curve(title: str, values: Sequence[float], across: str, up: str) -> str:
    """A line chart of values in their order; one point per pixel at most, the highest there."""
    step = max(1, math.ceil(len(values) / _PLOT_WIDTH))
    drawn = [max(values[i : i + step]) for i in range(0, len(values), step)] or [0.0]
    high = max(drawn) or 1.0
    points = " ".join(
        f"{_LEFT + _PLOT_WIDTH * i / max(1, len(drawn) - 1):.1f},"
        f"{_TOP + _PLOT_HEIGHT * (1 - value / high):.1f}"
        for i, value in enumerate(drawn)
    )
    return _svg(title, [*_axes(0, high, across, up), f'<polyline points="{points}"/>'])


def bars(title: str, values: Sequence[tuple[str, float]], across: str, up: str) -> str:
    """A bar chart of (name, value); the name is shown on hover."""
    high = max((value for _, value in values), default=0.0) or 1.0
    width = _PLOT_WIDTH / max(1, len(values))
    parts = _axes(0, high, across, up)
    for i, (name, value) in enumerate(values):
        height = _PLOT_HEIGHT * max(0.0, value) / high
        parts.append(
            f'<rect x="{_LEFT + i * width + 1:.1f}" y="{_TOP + _PLOT_HEIGHT - height:.1f}" '
            f'width="{max(1.0, width - 2):.1f}" height="{height:.1f}">'
            f"<title>{escape(name)}: {value:.4g}</title></rect>"
        )
    return _svg(title, parts)


def scatter(title: str, points: Sequence[tuple[str, float, float]], across: str, up: str) -> str:
    """A scatter chart of named points (name, x, y)."""
    xs = [x for _, x, _ in points] or [0.0]
    low, span = min(xs), (max(xs) - min(xs)) or 1.0
    high = max((y for *_, y in points), default=0.0) or 1.0
    parts = _axes(0, high, across, up)
    for name, x, y in points:
        # a margin on both sides keeps the names inside
        left = _LEFT + _PLOT_WIDTH * (0.1 + 0.7 * (x - low) / span)
        top = _TOP + _PLOT_HEIGHT * (1 - y / high * 0.9)
        parts.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4"/>'
            f'<text x="{left + 7:.1f}" y="{top + 4:.1f}" class="name">{escape(name)}</text>'
        )
    return _svg(title, parts)

"""Formats the time that the gate took. Pure."""

from __future__ import annotations

from edgekit.builder.gate.verdict import GateTime


def gate_took(time: GateTime) -> str:
    """The gate's time, what was announced, and what its long text cost."""
    announced = f"{time.announced_seconds:.0f} s were announced, " * bool(time.announced_seconds)
    return (
        f"the gate took {time.seconds:.0f} s "
        f"({announced}{time.extra_seconds:.1f} s are the long text and the cache)"
    )

"""Reads progress and the last error from the output of the toolchain's programs.

Pure: text in, values out. The model builder has no interface for progress, only its prints, its log
lines and tqdm's bars. Therefore an unknown line is never an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """The state of a build step, for display.

    Attributes:
        step: a stable word: source, fetch, toolchain, image, dequantise, build, lint, gate, verify
            or publish.
        detail: the current activity, for a human; may be empty.
        fraction: completed share of `detail`, 0 to 1; None when it is unknown.
    """

    step: str
    detail: str = ""
    fraction: float | None = None


ProgressCallback = Callable[[Progress], None]
"""Receives every `Progress`; called about once a second or more often while a program runs."""

_BAR = re.compile(r"^(?P<what>[^|]*?):?\s*(?P<percent>\d{1,3})%\|")
_QUANTISE = re.compile(r"start to quantize (?P<node>\S+)")
_LAYER = re.compile(r"layers?[./ ](?P<number>\d+)\b")
_DOWNLOAD = re.compile(r"^\s*Downloading (?:\S*/)?(?P<what>[^\s/]+?)-\d\S*(?P<size> \([^)]*\))?")
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b:?\s*\S*"
)
_PIP_ERROR = re.compile(r"^ERROR:\s*(?P<message>.+)")
_NOISE = re.compile(r"\[INFO\]|^WARNING:|^\s*File \"|^Traceback|^\s*[\^~]+\s*$|\d+%\|")


def split_lines(text: str) -> list[str]:
    """Lines of a log; tqdm ends its lines with a carriage return."""
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def read_line(step: str, line: str) -> Progress | None:
    """The progress in one printed line, or None for any other line."""
    if bar := _BAR.match(line):
        what = bar["what"].strip()
        if what.startswith("Saving "):
            what = "saving weights"
        return Progress(step, what.lower(), min(int(bar["percent"]), 100) / 100)
    if quantise := _QUANTISE.search(line):
        layer = _LAYER.search(quantise["node"])
        return Progress(step, f"quantising layer {layer['number']}" if layer else "quantising")
    if line.startswith("Reading "):
        return Progress(step, line.strip().lower())
    if download := _DOWNLOAD.match(line):
        return Progress(step, f"downloading {download['what']}{download['size'] or ''}")
    if line.startswith("Installing collected packages"):
        return Progress(step, "unpacking the packages")
    return None


def read_event(step: str, event: dict[str, Any]) -> Progress | None:
    """The progress in one reported event, or None for any other event."""
    if event.get("event") != "progress":
        return None
    share = event.get("fraction")
    fraction = min(max(float(share), 0.0), 1.0) if isinstance(share, int | float) else None
    return Progress(step, str(event.get("detail", "")), fraction)


def last_error(log: str, limit: int = 300) -> str:
    """The line of a failed program's log that gives the reason, at most `limit` characters.

    That is the last exception line or pip error; else the last line that is not a bar, an INFO
    line or a part of a traceback; empty for an empty log.
    """
    fallback = ""
    for line in reversed(split_lines(log)):
        if "for help visit" in line:  # pip ends with it, after the reason
            continue
        if pip := _PIP_ERROR.match(line):
            return pip["message"][:limit]
        if _EXCEPTION.match(line):
            return line.strip()[:limit]
        if not fallback and not _NOISE.search(line):
            fallback = line.strip()[:limit]
    return fallback

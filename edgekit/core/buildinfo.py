"""The part of a model folder that the builder writes and pack reads: file names and `build.json`.

`build.json` has more keys, which only the builder uses (`builder/spec.py`). A reader of these
values ignores the keys that it does not know.
"""

from __future__ import annotations

import hashlib

import msgspec

from edgekit.core.reading import UNREADABLE

RECORD_NAME = "build.json"
"""The record of the build: its inputs and its output files."""
PROVENANCE_NAME = "provenance.json"
"""The in-toto statement about the build."""
GATE_REPORT_NAME = "gate.json"
"""The gate's measurements."""
GATE_PAGE_NAME = "report.html"
"""The same measurements as a page to read in a browser."""


class FileRecord(msgspec.Struct, frozen=True):
    """One file of a model folder: sha256 (hex) and size in bytes."""

    sha256: str
    size: int


class GateOutcome(msgspec.Struct, frozen=True):
    """The gate's verdict on a model.

    Attributes:
        profile: name of the thresholds.
        passed: whether the model met them; None where the record does not say.
    """

    profile: str = ""
    passed: bool | None = None


class BuildInfo(msgspec.Struct, frozen=True):
    """The values of `build.json` that pack relies on.

    Attributes:
        build_id: sha256 (hex) of the canonical JSON of everything that decided the bytes.
        files: relative path -> record of every file of the folder except `build.json` itself.
        gate: None for a model that the gate did not test.
    """

    build_id: str
    files: dict[str, FileRecord]
    gate: GateOutcome | None = None


class _Files(msgspec.Struct, frozen=True):
    files: dict[str, str]


class _Making(msgspec.Struct, frozen=True):
    """What of a build's specification says which weights it makes, whatever tools make them."""

    source: _Files
    precision: str
    provider: str
    options: dict[str, str]
    option_files: dict[str, dict[str, str]]
    vision: str | msgspec.UnsetType = msgspec.UNSET


class _Record(msgspec.Struct, frozen=True):
    spec: _Making


def made_from(record: bytes) -> str:
    """What the weights of a model were made from, and how: sha256 (hex) of source and options.

    Toolchain, context and the names of the source do not count: two models with the same value
    should answer alike.

    Args:
        record: the bytes of a `build.json`.

    Returns:
        The digest; empty where the record does not say.
    """
    try:
        making = msgspec.json.decode(record, type=_Record).spec
    except UNREADABLE:
        return ""
    return hashlib.sha256(msgspec.json.encode(making, order="sorted")).hexdigest()

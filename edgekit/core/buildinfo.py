"""What a model folder says about its model: the names of those files, and the part of `build.json`
that the build writes and pack reads.

What else is on record there is the builder's own business (`builder/spec.py`): readers of these
values pass over keys that they do not know.
"""

from __future__ import annotations

import msgspec

RECORD_NAME = "build.json"
"""What made the model, and what came out."""
PROVENANCE_NAME = "provenance.json"
"""The in-toto statement about the build."""
GATE_REPORT_NAME = "gate.json"
"""What the gate measured."""
GATE_PAGE_NAME = "report.html"
"""The same as a page for people."""


class FileRecord(msgspec.Struct, frozen=True):
    """One file of a model folder: sha256 (hex) and size in bytes."""

    sha256: str
    size: int


class GateOutcome(msgspec.Struct, frozen=True):
    """How the model did at the gate.

    Attributes:
        profile: the thresholds' name.
        passed: whether it met them; None where the record does not say.
    """

    profile: str = ""
    passed: bool | None = None


class BuildInfo(msgspec.Struct, frozen=True):
    """What a record says of its model.

    Attributes:
        build_id: sha256 (hex) of the canonical JSON of everything that decided the bytes.
        files: relative path -> record of every file of the folder except `build.json` itself.
        gate: None for a model that was not tested.
    """

    build_id: str
    files: dict[str, FileRecord]
    gate: GateOutcome | None = None

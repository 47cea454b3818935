"""A model folder as pack reads it: the model's files, the files about it, and its record.

Only this module decides which files are the model: every file at the top of the folder that is
neither hidden nor *about* the model (`is_about`). pack takes the model only when it equals the
record in `build.json` byte for byte: an edited file is not the one that passed the gate.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.buildinfo import (
    GATE_PAGE_NAME,
    GATE_REPORT_NAME,
    PROVENANCE_NAME,
    RECORD_NAME,
    BuildInfo,
    made_from,
)
from edgekit.core.digest import Digest
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError, VerificationError
from edgekit.store import read_chunks

PASSED, UNGATED = "passed", "ungated"

_ABOUT = (RECORD_NAME, PROVENANCE_NAME, GATE_REPORT_NAME, GATE_PAGE_NAME)
_LEGAL = ("LICENSE", "LICENCE", "NOTICE")


def is_about(name: str) -> bool:
    """Whether a file of a model folder only describes the model; a device has no use for it."""
    return name in _ABOUT or name.upper().startswith(_LEGAL)


class ModelFolder(msgspec.Struct, frozen=True):
    """A model folder, made by `edgekit build` or by other means.

    Attributes:
        path: the folder.
        record: its `build.json`; None for a folder without one.
        model: names of the model's files, sorted.
        about: names of the files about the model, sorted.
        made_from: of its record, as `buildinfo.made_from` says it; empty without one.
    """

    path: Path
    record: BuildInfo | None
    model: tuple[str, ...]
    about: tuple[str, ...]
    made_from: str = ""

    @property
    def build_id(self) -> str:
        """The build id; empty for a folder without a record."""
        return self.record.build_id if self.record else ""

    @property
    def verdict(self) -> str:
        """`passed`, or `ungated` for every other outcome of the gate."""
        gate = self.record.gate if self.record else None
        return PASSED if gate and gate.passed else UNGATED


def read_folder(path: Path) -> ModelFolder:
    """Sort a folder's files and read its record.

    Raises:
        UsageError: the folder's `build.json` cannot be read.
    """
    names = sorted(p.name for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    data = b""
    try:
        data = (path / RECORD_NAME).read_bytes()
        record = msgspec.json.decode(data, type=BuildInfo)
    except FileNotFoundError:
        record = None
    except UNREADABLE as error:
        raise UsageError(
            f"{path / RECORD_NAME} cannot be read", str(error), "build the model again"
        ) from error
    return ModelFolder(
        path=path,
        record=record,
        model=tuple(name for name in names if not is_about(name)),
        about=tuple(name for name in names if is_about(name)),
        made_from=made_from(data),
    )


def check_gate(folder: ModelFolder, accept_ungated: bool) -> None:
    """Check the gate's verdict.

    Raises:
        UsageError: the model has not passed the gate, and the user did not accept that.
    """
    if folder.verdict == PASSED or accept_ungated:
        return
    gate = folder.record.gate if folder.record else None
    if folder.record is None:
        why = f"it has no {RECORD_NAME}, which would say how it was made"
    elif gate is None or gate.passed is None:
        why = "it was built without the gate, which tests a model's answers"
    else:
        why = f"it did not meet the thresholds {gate.profile!r}"
    raise UsageError(
        f"{folder.path} has not passed the gate",
        why,
        "build it with the gate, or pack it untested with --accept-ungated",
    )


def check_bytes(folder: ModelFolder) -> None:
    """Compare the folder with its record; a folder without a record passes.

    Raises:
        VerificationError: a file was edited, added or removed since the build; names the file.
    """
    if folder.record is None:
        return
    for name, file in sorted(folder.record.files.items()):
        path = folder.path / name
        if not path.is_file():
            raise _altered(folder, name, "is missing")
        # the size first: reading it costs nothing
        if path.stat().st_size != file.size or Digest.of(read_chunks(path)).hex != file.sha256:
            raise _altered(folder, name, "is not the file that was built")
    for name in folder.model:
        if name not in folder.record.files:
            raise _altered(folder, name, "was added after the build")


def _altered(folder: ModelFolder, name: str, how: str) -> VerificationError:
    return VerificationError(
        f"{name} {how}",
        f"it differs from the record in {folder.path / RECORD_NAME}",
        "build the model again",
    )

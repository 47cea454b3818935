"""Tells the supervisor how a release on trial does: writes `run/trial.json`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from edgekit.core.golden import GoldenScore, TrialReport

log = logging.getLogger(__name__)

RSS_STEP = 1 << 20  # bytes; a smaller change of the memory is not written


class TrialFile:
    """Writes a `TrialReport` whenever it changes, until the supervisor removes the file.

    Nothing of it has to survive a power loss.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._report = TrialReport()
        self._warned = False
        self._written = False  # at least once
        self._unwritten = False  # the newest report is not in the file

    @property
    def over(self) -> bool:
        """Whether the supervisor has removed the file: the trial has ended well."""
        return self._written and not self._path.exists()

    def remove(self) -> None:
        """Remove what an earlier agent wrote."""
        self._path.unlink(missing_ok=True)

    def loaded(self, score: GoldenScore | None) -> None:
        """The model is loaded, and its golden prompts have this score."""
        self._tell(msgspec.structs.replace(self._report, loaded=True, score=score))

    def connected(self) -> None:
        """The broker has accepted the agent. A connection that is lost later does not count."""
        self._tell(msgspec.structs.replace(self._report, connected=True))

    def tick(self, worker: int | None) -> None:
        """Measure the memory of this process and of the worker with this process id."""
        rss = rss_bytes(os.getpid()) + (rss_bytes(worker) if worker is not None else 0)
        if self._unwritten or abs(rss - self._report.rss_bytes) >= RSS_STEP:
            self._tell(msgspec.structs.replace(self._report, rss_bytes=rss))

    def _tell(self, report: TrialReport) -> None:
        if self.over or (report == self._report and not self._unwritten):
            return
        self._report, self._unwritten = report, True
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(report))
            temporary.replace(self._path)
            self._written, self._unwritten = True, False
        except OSError as error:  # a full disk must not end the agent
            if not self._warned:
                log.warning("%s cannot be written: %s", self._path, error)
            self._warned = True


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)

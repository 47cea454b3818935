"""Writes what an agent on trial says of itself, for its supervisor."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edgekit.agent.serve.session.events import Snapshot
from edgekit.core.golden import GoldenScore, TrialReport

STEP_BYTES = 1 << 20  # a smaller change of memory is not reported
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class TrialFile:
    """A file that is written again when something changed, until the supervisor removes it.

    Args:
        path: of the file; None: the agent is not on trial.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: TrialReport | None = None

    def tell(self, snapshot: Snapshot, score: GoldenScore | None, worker: int | None) -> None:
        """Write what is true in this tick. A file that cannot be written is tried again.

        Args:
            snapshot: of this tick.
            score: of the golden prompts; None before they were scored, or without any.
            worker: its process id, while one runs.
        """
        if self._path is None:
            return
        if self._written is not None and not self._path.exists():
            self._path = None  # the trial is over
            return
        report = TrialReport(
            loaded=snapshot.status.state != "starting",
            connected=snapshot.connected,
            score=score,
            rss_bytes=rss_bytes(os.getpid()) + (rss_bytes(worker) if worker else 0),
        )
        if self._written is not None and _same(report, self._written):
            return
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:  # without fsync: the file ends with the trial, as a reboot ends it
            temporary.write_bytes(msgspec.json.encode(report))
            temporary.replace(self._path)
        except OSError:  # a full disk must not end the agent; the trial's deadline ends the trial
            return
        self._written = report


def _same(one: TrialReport, other: TrialReport) -> bool:
    return (
        msgspec.structs.replace(one, rss_bytes=other.rss_bytes) == other
        and abs(one.rss_bytes - other.rss_bytes) < STEP_BYTES
    )


def rss_bytes(pid: int) -> int:
    """Resident memory of a process (proc(5), `statm`), in bytes; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0

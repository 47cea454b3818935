"""A job, one script of `inside/` with its inputs, and the interface of the runners.

A job names its files by their paths on this machine; the runner maps them for the script. `host.py`
runs jobs in a virtual environment, `container.py` in a container.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from edgekit.builder.tools.process import ProcessResult
from edgekit.builder.tools.progress import Progress, ProgressCallback


class Job(msgspec.Struct, frozen=True):
    """One run of a script of `inside/`, as a value.

    Attributes:
        script: file name in `inside/`.
        arguments: its command line without `--report`; paths as `Path`.
        work: its working directory, which it may write to; every output lies below it.
        shows: progress to report until the script reports its own.
        deadline_seconds: run time after which it is killed.
        reads: files and folders that it only reads.
        memory_limit_bytes: enforced in a container, ignored on the host.
    """

    script: str
    arguments: tuple[str | Path, ...]
    work: Path
    shows: Progress
    deadline_seconds: float
    reads: tuple[Path, ...] = ()
    memory_limit_bytes: int | None = None

    @property
    def name(self) -> str:
        """The script's name without its suffix."""
        return self.script.removesuffix(".py")

    @property
    def log(self) -> Path:
        """File for everything that the script prints."""
        return self.work / f"{self.name}.log"

    @property
    def events(self) -> Path:
        """File for the events that the script reports (`inside/common/reporting.py`)."""
        return self.work / f"{self.name}.events"


class Toolchain(Protocol):
    """The locked tools, ready to run."""

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        """Run a job to its end, whatever its exit code.

        Raises:
            EdgekitError: the job cannot be started, or ran past its deadline.
        """
        ...


class ToolchainSource(Protocol):
    """Provides the toolchain of a build; tests implement it with a fake."""

    digest: str
    """Sha256 (hex) of the lock; a part of the build id."""
    tools: dict[str, str]
    """Package -> version of everything that the lock installs, for the record."""
    isolation: str
    """`host` or `container`, for the record."""
    image: str
    """Digest of the container image once it is ready; empty on the host."""

    def ready(self, report: ProgressCallback) -> Toolchain:
        """The toolchain; it is installed first where it is missing."""
        ...

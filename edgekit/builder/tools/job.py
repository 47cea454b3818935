"""One script of `inside/` that is to run with the toolchain, as a value, and who can run it.

A job names its files by their paths on this machine; how they look to the script is the runner's
business. `host.py` runs jobs in a virtual environment, `container.py` in a container.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from edgekit.builder.tools.process import ProcessResult
from edgekit.builder.tools.progress import Progress, ProgressCallback


class Job(msgspec.Struct, frozen=True):
    """A script and what it works on.

    Attributes:
        script: file name in `inside/`.
        arguments: its command line without `--report`; paths as `Path`.
        work: a folder that it may write to and runs in; every output lies below it.
        shows: reported until the script says more.
        deadline_seconds: it is ended after that long.
        reads: files and folders it only reads.
        memory_limit_bytes: where the runner can enforce one.
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
        """Takes everything the script prints."""
        return self.work / f"{self.name}.log"

    @property
    def events(self) -> Path:
        """Takes what the script reports (`inside/common/reporting.py`)."""
        return self.work / f"{self.name}.events"


class Toolchain(Protocol):
    """The locked tools, ready to run."""

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        """Run a job to its end, whatever its exit code.

        Raises:
            EdgekitError: it cannot be started, or ran past its deadline.
        """
        ...


class ToolchainSource(Protocol):
    """Where a build gets its toolchain from; tests put a stand-in here."""

    digest: str
    """Sha256 (hex) of the lock: a part of the build id."""
    tools: dict[str, str]
    """Package -> version, everything the lock installs, for the record."""
    isolation: str
    """`host` or `container`, for the record."""
    image: str
    """Digest of the container image once it is ready, else empty."""

    def ready(self, report: ProgressCallback) -> Toolchain:
        """The toolchain, installed first when it has to be."""
        ...

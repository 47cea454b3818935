"""The host toolchain: a venv with the locked builder, keyed by the lock's digest.

It lies in edgekit's cache folder and is shared by all projects. A venv holds absolute paths and
cannot be renamed into place. Therefore it is made at its final place, under a lock, and the last
file `complete.json` marks it as complete; a venv without this file is removed and made again.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

import msgspec

from edgekit import data
from edgekit.builder.files import Claim, hash_file, sync
from edgekit.builder.tools.job import Job
from edgekit.builder.tools.process import INSIDE, OFFLINE, ProcessResult, clean_environment, run
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.data import cache_root
from edgekit.errors import EdgekitError

PYTHON_VERSION = "3.11"
INSTALL_DEADLINE_SECONDS = 2 * 3600  # about 600 MB over a slow link
VENV_DEADLINE_SECONDS = 300
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds; the builds on PyPI bring gigabytes of CUDA."""

_NO_TORCH = re.compile(
    r"^ERROR: (?:No matching distribution found for|Cannot install) torch==", re.MULTILINE
)
_MARKER = "complete.json"


class HostRunner(msgspec.Struct, frozen=True):
    """Runs jobs with an interpreter of this machine.

    Attributes:
        python: the interpreter.
        scripts: the folder of the scripts.
    """

    python: Path
    scripts: Path = INSIDE

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        """Run a job; its memory limit is not enforced."""
        # -E and -s ignore the user's environment and home; -I would also drop the scripts' own
        # folder, from which they import each other
        argv = [str(self.python), "-E", "-s", str(self.scripts / job.script)]
        return run(
            [*argv, *map(str, job.arguments)],
            shows=job.shows,
            log=job.log,
            events=job.events,
            environment=clean_environment(OFFLINE),
            deadline_seconds=job.deadline_seconds,
            report=report,
            cwd=job.work,
        )


class HostToolchain:
    """The toolchain of `containers/builder/toolchain.lock` in a venv on this machine."""

    isolation = "host"
    image = ""

    def __init__(self, lock: Path | None = None, cache: Path | None = None) -> None:
        self._lock = lock or data.path("containers/builder/toolchain.lock")
        self._cache = cache or cache_root()
        self.digest = hash_file(self._lock)
        self.tools = locked_versions(self._lock.read_text(encoding="utf-8"))

    @property
    def folder(self) -> Path:
        """The folder of the venv, whether it exists or not."""
        return self._cache / "toolchain" / self.digest[:16]

    def ready(self, report: ProgressCallback) -> HostRunner:
        """A runner with the installed toolchain; it is installed first where it is missing.

        Raises:
            EdgekitError: wrong machine, no CPython 3.11, or the installation failed.
        """
        if not self._complete():
            self._install(report)
        return HostRunner(self.folder / "bin" / "python")

    def _complete(self) -> bool:
        # the interpreter that the venv links to may have been uninstalled since
        return (self.folder / _MARKER).is_file() and (self.folder / "bin" / "python").exists()

    def _install(self, report: ProgressCallback) -> None:
        check_machine(sys.platform, platform.machine())
        base = find_python()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock_file = self.folder.with_suffix(".lock")
        lock_file.touch()
        claim = Claim(lock_file)
        try:
            _wait_for(claim, report)
            if self._complete():  # another process was faster
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            try:
                self._make(base, report)
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
        finally:
            claim.release()

    def _make(self, base: str, report: ProgressCallback) -> None:
        making = Progress("toolchain", f"making an environment with Python {PYTHON_VERSION}")
        log = self.folder.with_suffix(".log")
        # without pip: the pip of edgekit's own environment installs into it, no ensurepip is needed
        made = run(
            [base, "-I", "-m", "venv", "--without-pip", str(self.folder)],
            shows=making, log=log, environment=pip_environment(),
            deadline_seconds=VENV_DEADLINE_SECONDS, report=report,
        )  # fmt: skip
        if made.code != 0:
            raise EdgekitError(
                f"Python {PYTHON_VERSION} cannot make a virtual environment",
                why=made.reason,
                next_step="install the packages python3.11 and python3.11-venv",
            )
        installed = self._pip(log, report)
        if lacks_torch(installed):
            installed = self._pip(log, report, "--extra-index-url", TORCH_CPU_INDEX)
        if installed.code != 0:
            raise EdgekitError(
                "the build toolchain could not be installed",
                why=installed.reason,
                next_step=f"pip uses your own configuration; its output is in {log}",
            )
        marker = self.folder / _MARKER
        marker.write_bytes(msgspec.json.encode({"lock": self.digest, "python": base}))
        sync(marker)
        log.unlink()

    def _pip(self, log: Path, report: ProgressCallback, *extra: str) -> ProcessResult:
        # pip checks every file against the lock's hash, whichever index it comes from
        return run(
            [
                sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"),
                "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "--no-input",
                "--disable-pip-version-check", "--progress-bar=off", *extra, "-r", str(self._lock),
            ],
            shows=Progress("toolchain", "starting pip"), log=log, environment=pip_environment(),
            deadline_seconds=INSTALL_DEADLINE_SECONDS, report=report,
        )  # fmt: skip


def lacks_torch(finished: ProcessResult) -> bool:
    """Whether pip failed because its configured indexes have no CPU build of torch."""
    return finished.code != 0 and bool(_NO_TORCH.search(finished.tail))


def locked_versions(lock: str) -> dict[str, str]:
    """Package -> version, from a pip requirements file with hashes."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", lock, flags=re.MULTILINE))


def check_machine(system: str, machine: str) -> None:
    """Refuse a machine for which the lock has no wheels.

    Raises:
        EdgekitError: it is not Linux on x86-64.
    """
    if (system, machine) != ("linux", "x86_64"):
        raise EdgekitError(
            f"the build toolchain does not run on {system} {machine} yet",
            why="its lock has wheels for Linux on x86-64 only",
            next_step="build on a Linux x86-64 machine; the model runs on every device",
        )


def find_python() -> str:
    """The path of a CPython 3.11.

    Raises:
        EdgekitError: there is none; the error names the packages to install.
    """
    if sys.version_info[:2] == (3, 11) and sys.implementation.name == "cpython":
        return sys.executable
    if found := shutil.which(f"python{PYTHON_VERSION}"):
        return found
    raise EdgekitError(
        f"no Python {PYTHON_VERSION} on this machine",
        why="the build toolchain is locked for it",
        next_step="install the packages python3.11 and python3.11-venv, "
        "or run: uv python install 3.11",
    )


def _wait_for(claim: Claim, report: ProgressCallback) -> None:
    deadline = time.monotonic() + INSTALL_DEADLINE_SECONDS
    while not claim.take():
        if time.monotonic() > deadline:
            raise EdgekitError("another edgekit has been installing the toolchain for hours")
        report(Progress("toolchain", "waiting for another edgekit that installs it"))
        time.sleep(1)


def pip_environment() -> dict[str, str]:
    """The user's environment with pip's settings, without variables that redirect Python or pip."""
    dropped = {
        "PIP_CONSTRAINT",  # the lock names every version
        "PIP_PREFIX",
        "PIP_REQUIRE_VIRTUALENV",
        "PIP_TARGET",
        "PIP_USER",
        "VIRTUAL_ENV",
    }
    return {
        key: value
        for key, value in os.environ.items()
        if key not in dropped and not key.startswith("PYTHON")
    }

"""Runs jobs of the toolchain in containers: no network, no rights, only the job's own files.

A container sees files under their paths on the host; therefore a job is the same wherever it runs.
It can write to its work folder only.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgekit import data, memory
from edgekit.builder.files import hash_file
from edgekit.builder.tools.engine import (
    HOST_INSTEAD,
    NOBODY,
    Engine,
    Mount,
    ask,
    engine_failed,
    find_engine,
)
from edgekit.builder.tools.host import locked_versions
from edgekit.builder.tools.image import BASE_VARIABLE, PYTHON, BuilderImage, base_from
from edgekit.builder.tools.job import Job
from edgekit.builder.tools.process import INSIDE, OFFLINE, SLEEPING, ProcessResult, run
from edgekit.builder.tools.progress import ProgressCallback
from edgekit.errors import EdgekitError

_ENVIRONMENT = {
    **OFFLINE,
    **SLEEPING,
    "HOME": "/tmp",  # noqa: S108 (the container's own, in memory)
    "PYTHONDONTWRITEBYTECODE": "1",
}
_KILLED = 128 + signal.SIGKILL


class ContainerRunner(msgspec.Struct, frozen=True):
    """Runs each job in a container of its own.

    Attributes:
        engine: starts the containers.
        image: digest or tag of the image.
        scripts: the folder of the scripts.
    """

    engine: Engine
    image: str
    scripts: Path = INSIDE

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        """Run a job; without a limit of its own, it may use the memory that is available now.

        Raises:
            EdgekitError: the engine failed, or the deadline passed.
        """
        limit = job.memory_limit_bytes or memory.free_bytes()
        seen = read_mounts(job, self.scripts)
        with _readable(seen, job.work) as read, _owned_by_the_container(job.work):
            finished = self._run(job, (*read, Mount(job.work, writable=True)), limit, report)
        if engine_failed(finished.code):
            raise EdgekitError(
                f"{self.engine.name} could not start the container",
                why=finished.reason,
                next_step=HOST_INSTEAD,
            )
        if finished.code == _KILLED:
            return msgspec.structs.replace(
                finished, code=-signal.SIGKILL, peak_rss_bytes=limit or 0
            )
        return finished

    def _run(
        self, job: Job, mounts: tuple[Mount, ...], limit: int | None, report: ProgressCallback
    ) -> ProcessResult:
        name = f"edgekit-{job.name.replace('_', '-')}-{os.getpid()}-{secrets.token_hex(4)}"
        python = (PYTHON, "-E", "-s")
        leash = (*python, str(self.scripts / "leash.py"))
        argv = [*leash, *python, str(self.scripts / job.script), *map(str, job.arguments)]
        command = self.engine.run(
            self.image, argv, name=name, mounts=mounts, work=job.work,
            environment=_ENVIRONMENT, memory_bytes=limit,
        )  # fmt: skip
        try:
            return run(
                command, shows=job.shows, log=job.log, environment=dict(os.environ),
                deadline_seconds=job.deadline_seconds, report=report,
                events=job.events, stdin=subprocess.PIPE,
                cwd=job.work,  # conmon leaves a file `oom` where it starts
            )  # fmt: skip
        except BaseException:
            # the engine's client has ended; its container ends soon, but maybe after this process
            ask([*self.engine.argv, "rm", "--force", name])
            raise


class ContainerToolchain:
    """The toolchain of `containers/builder/toolchain.lock` in an image.

    The host toolchain has the same lock, therefore both make the same bytes.
    """

    isolation = "container"

    def __init__(self) -> None:
        self._lock = data.path("containers/builder/toolchain.lock")
        self.digest = hash_file(self._lock)
        self.tools = locked_versions(self._lock.read_text(encoding="utf-8"))
        self.image = ""

    def ready(self, report: ProgressCallback) -> ContainerRunner:
        """A runner with an engine that answers; the image is built first where it is missing.

        Raises:
            EdgekitError: no engine works here, or the image cannot be built; the error suggests
                `--host`.
        """
        engine = find_engine()
        image = BuilderImage(engine, self._lock, base_from(os.environ.get(BASE_VARIABLE, "")))
        self.image = image.digest() or image.make(report)
        return ContainerRunner(engine, image.tag)


def read_mounts(job: Job, scripts: Path) -> tuple[Mount, ...]:
    """Read-only mounts of a job: the scripts, its files, and the targets of links among them."""
    read = {scripts, *(path for path in job.reads if path.exists())}
    for path in job.reads:
        for file in _files(path):
            if file.is_symlink():  # the hub's cache consists of links
                read.add(file.resolve().parent)
    return tuple(
        Mount(path) for path in sorted(read) if not any(other in path.parents for other in read)
    )


@contextmanager
def _readable(seen: tuple[Mount, ...], work: Path) -> Iterator[tuple[Mount, ...]]:
    """For a root caller: mounts that the container's user nobody can read.

    A folder that only its owner may enter is replaced by one mount per file. A file that only its
    owner may read is replaced by a copy: transformers saves weights with mode 0600.
    """
    if os.geteuid() != 0:
        yield seen
        return
    mounts = {mount.path: mount for each in seen for mount in _opened(each)}
    files = [file for mount in seen for file in _files(mount.path) if file.is_file()]
    private = [file for file in files if not file.stat().st_mode & 0o004]
    with tempfile.TemporaryDirectory(dir=work, prefix=".readable-") as name:
        for number, file in enumerate(private):
            copy = Path(name) / str(number)
            # cp, because it clones where the file system supports that
            subprocess.run(["cp", "--reflink=auto", file, copy], check=True)
            mounts[file] = Mount(file, source=copy)
        yield tuple(mounts.values())


def _opened(mount: Mount) -> Iterator[Mount]:
    """The mount itself, or one mount per file of a folder that others may not enter."""
    found = tuple(_files(mount.path))
    if all(path.stat().st_mode & 0o005 == 0o005 for path in found if path.is_dir()):
        yield mount
        return
    for path in found:
        if path.is_file():
            yield Mount(path, source=path.resolve())


def _files(path: Path) -> Iterable[Path]:
    return (path, *path.rglob("*")) if path.is_dir() else (path,)


@contextmanager
def _owned_by_the_container(work: Path) -> Iterator[None]:
    """For a root caller: gives the work folder to the container's user while the job runs."""
    if os.geteuid() != 0:
        yield
        return
    _chown(work, NOBODY)
    try:
        yield
    finally:
        _chown(work, 0)


def _chown(work: Path, user: int) -> None:
    for path in _files(work):
        os.chown(path, user, user, follow_symlinks=False)

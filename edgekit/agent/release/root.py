"""ROOT, the folder of one device: its paths (from `core.layout`) and its update lock."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import msgspec

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, VerificationError
from edgekit.store import BlobStore

NO_LINK = (errno.ENOENT, errno.EINVAL, errno.ENOTDIR)  # of readlink(2)
YIELDS = "yields"  # what the lock's file says while its holder gives it back within a moment
YIELD_SECONDS = 30.0
POLL_SECONDS = 0.05


class Root(msgspec.Struct, frozen=True):
    """The folders and files of a device."""

    path: Path

    @property
    def store(self) -> BlobStore:
        """The device's blobs."""
        return BlobStore(self.path)

    @property
    def agent_config(self) -> Path:
        """`agent.toml`, written by a push."""
        return self.path / layout.AGENT_CONFIG

    @property
    def previous_config(self) -> Path:
        """The `agent.toml` with which `previous` ran."""
        return self.path / layout.PREVIOUS_CONFIG

    @property
    def good_config(self) -> Path:
        """The last good `agent.toml` of `current`, while only a new configuration is on trial."""
        return self.path / layout.GOOD_CONFIG

    @property
    def next_config(self) -> Path:
        """The `agent.toml` of a trial that begins, or of an unproven release."""
        return self.path / layout.NEXT_CONFIG

    @property
    def current(self) -> Path:
        """Link to the running release."""
        return self.path / layout.CURRENT

    @property
    def previous(self) -> Path:
        """Link to the release to go back to."""
        return self.path / layout.PREVIOUS

    @property
    def older(self) -> Path:
        """During a trial, a link to what `previous` named before it."""
        return self.path / layout.OLDER

    @property
    def trees(self) -> Path:
        """Unpacked agent and runtime layers, one folder per layer digest, shared by releases."""
        return self.path / layout.TREES

    @property
    def compiled(self) -> Path:
        """Where Python keeps the modules that it compiled: what lies below ROOT, by the same path.

        Only Python makes it.
        """
        return self.path / layout.PYCACHE / self.path.resolve().relative_to("/")

    def forget_compiled(self) -> None:
        """Remove the compiled modules: Python makes them anew.

        Releases with the same trees share them, and Python does not sync them to the disk. One that
        a power cut tore would end the release that comes and the one to go back to.
        """
        import shutil  # noqa: PLC0415  it brings archives, which take long to import

        shutil.rmtree(self.compiled, ignore_errors=True)

    @property
    def ready_file(self) -> Path:
        """Exists while the agent answers prompts."""
        return self.path / layout.READY_FILE

    @property
    def trial_file(self) -> Path:
        """What the agent on trial says of itself."""
        return self.path / layout.TRIAL_FILE

    @property
    def broker_file(self) -> Path:
        """How the agent stands with its broker, while it runs."""
        return self.path / layout.BROKER_FILE

    @property
    def journal(self) -> Path:
        """The accepted prompts and their outcomes."""
        return self.path / layout.JOURNAL

    @property
    def tuning_file(self) -> Path:
        """The runtime settings measured for each release on this CPU."""
        return self.path / layout.TUNING_FILE

    @property
    def pid_file(self) -> Path:
        """Locked by the supervisor while it lives."""
        return self.path / layout.PID_FILE

    @property
    def start_file(self) -> Path:
        """Exists while systemd is asked to start the supervisor."""
        return self.path / layout.START_FILE

    @property
    def stopped_file(self) -> Path:
        """Exists since an operator stopped the device: its content is the Unix time."""
        return self.path / layout.STOPPED_FILE

    @property
    def supervisor_file(self) -> Path:
        """Says which supervisor the device has."""
        return self.path / layout.SUPERVISOR_FILE

    @property
    def whole_trees_file(self) -> Path:
        """What the trees looked like when they were whole."""
        return self.path / layout.WHOLE_TREES_FILE

    @property
    def lease_file(self) -> Path:
        """Names the push in progress."""
        return self.path / layout.LEASE_FILE

    @property
    def holder_file(self) -> Path:
        """Which rollout holds the device, and until when."""
        return self.path / layout.HOLDER_FILE

    @property
    def reserve_file(self) -> Path:
        """Bytes that are set aside for the way back of a trial."""
        return self.path / layout.RESERVE_FILE

    @property
    def pinned_file(self) -> Path:
        """Digests of releases that are never collected, one a line."""
        return self.path / layout.PINNED_FILE

    @property
    def scrub_file(self) -> Path:
        """How far the last scrub came, and what it found."""
        return self.path / layout.SCRUB_FILE

    @property
    def mended_file(self) -> Path:
        """Exists if files of `current` were replaced since it started: a push restarts it."""
        return self.path / layout.MENDED_FILE

    @property
    def desired_file(self) -> Path:
        """What the broker says that this device shall run; nothing of it is trusted."""
        return self.path / layout.DESIRED_FILE

    @property
    def update_file(self) -> Path:
        """What this device made of its desired state."""
        return self.path / layout.UPDATE_FILE

    @property
    def offered_file(self) -> Path:
        """The digest of the release that a push offered last."""
        return self.path / layout.OFFERED_FILE

    @property
    def log_file(self) -> Path:
        """The output of supervisor, agent and worker."""
        return self.path / layout.LOG_FILE

    def release(self, digest: Digest) -> Path:
        """The folder of a staged release."""
        return self.path / layout.release(digest)

    def linked(self, link: Path) -> Digest | None:
        """The release that a link names, or None if it names none, or is no link.

        Raises:
            OSError: the disk cannot read it: that says nothing of what it names.
        """
        try:
            return Digest.from_hex(link.readlink().name)
        except VerificationError:
            return None
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            return None

    def way_back(self, link: Path) -> Digest | None:
        """The release that a link names if its folder is there: what else could run again."""
        named = self.linked(link)
        return named if named is not None and self.release(named).is_dir() else None

    def create(self) -> None:
        """Make the folders; the root is for its owner alone, because it holds prompts."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (layout.ETC, layout.RUN, layout.LOG):
            (self.path / name).mkdir(exist_ok=True, mode=0o700)
        for name in (layout.RELEASES, layout.TREES):
            (self.path / name).mkdir(exist_ok=True)
        self.store.create()

    @contextmanager
    def updating(self, yields: bool = False) -> Iterator[None]:
        """Hold the device's update lock; the kernel releases it when its holder dies.

        Args:
            yields: this holder gives the lock back within a moment; others wait for it.

        Raises:
            EdgekitError: another update is in progress.
        """
        self.create()
        deadline = time.monotonic() + YIELD_SECONDS
        with (self.path / layout.UPDATE_LOCK).open("a+") as file:
            while not _locked(file):
                file.seek(0)
                if file.read() != YIELDS or time.monotonic() > deadline:
                    raise EdgekitError(
                        "another update of this device is at work",
                        next_step="wait for it to end and push again",
                    )
                time.sleep(POLL_SECONDS)
            os.truncate(file.fileno(), 0)
            if yields:
                with suppress(OSError):  # a full disk: then others do not wait
                    os.write(file.fileno(), YIELDS.encode())
            yield

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Hold the lock under which links and records of a trial change.

        An activation holds it while it moves the links, and a supervisor for each change that a
        trial makes: neither sees the other's work half done.
        """
        with (self.path / layout.SWITCH_LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def environment(self, release: Path) -> dict[str, str]:
        """The environment of a release: its own trees and no other packages of the machine."""
        return layout.environment(self.path, layout.release_trees(release))


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""ROOT: where everything of one device lies, and the environment a release runs in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError
from edgekit.store import BlobStore


@dataclass(frozen=True, slots=True)
class Root:
    """The folders and files of a device."""

    path: Path

    @property
    def store(self) -> BlobStore:
        """The device's blobs."""
        return BlobStore(self.path)

    @property
    def agent_config(self) -> Path:
        """`agent.toml`, written by a push."""
        return self.path / "etc" / "agent.toml"

    @property
    def previous_config(self) -> Path:
        """The `agent.toml` that `previous` ran with."""
        return self.path / "etc" / "agent.toml.previous"

    @property
    def good_config(self) -> Path:
        """The `agent.toml` that `current` was good with, while only a new one is on trial."""
        return self.path / "etc" / "agent.toml.good"

    @property
    def current(self) -> Path:
        """Link to the release that runs."""
        return self.path / "current"

    @property
    def previous(self) -> Path:
        """Link to the release to go back to."""
        return self.path / "previous"

    @property
    def trees(self) -> Path:
        """Unpacked agent and runtime layers, one folder per layer digest, shared by releases."""
        return self.path / "trees"

    @property
    def ready_file(self) -> Path:
        """Exists while the agent answers prompts."""
        return self.path / "run" / "ready.json"

    @property
    def journal(self) -> Path:
        """The prompts that were accepted, and their outcomes."""
        return self.path / "journal.db"

    @property
    def tuning_file(self) -> Path:
        """The runtime settings that were measured for each release on this CPU."""
        return self.path / "tuning.json"

    @property
    def pid_file(self) -> Path:
        """Locked by the supervisor while it lives."""
        return self.path / "run" / "supervisor.pid"

    @property
    def lease_file(self) -> Path:
        """Names the push that is at work."""
        return self.path / "run" / "push.lease"

    @property
    def log_file(self) -> Path:
        """What supervisor, agent and worker print."""
        return self.path / "log" / "agent.log"

    def release(self, digest: Digest) -> Path:
        """The folder of a staged release."""
        return self.path / "releases" / digest.hex

    def linked(self, link: Path) -> Digest | None:
        """The release a link names, or None."""
        try:
            return Digest.parse("sha256:" + link.readlink().name)
        except FileNotFoundError:
            return None

    def create(self) -> None:
        """Make the folders: the root is the device owner's alone, as prompts are."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("etc", "run", "log"):
            (self.path / name).mkdir(exist_ok=True, mode=0o700)
        for name in ("releases", "trees"):
            (self.path / name).mkdir(exist_ok=True)
        self.store.create()

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Hold the device's update lock; the kernel lets go of it when the holder dies.

        Raises:
            EdgekitError: another update is at work.
        """
        self.create()
        with (self.path / "run" / "update.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EdgekitError(
                    "another update of this device is at work",
                    next_step="wait for it to end and push again",
                ) from None
            yield

    def environment(self, release: Path) -> dict[str, str]:
        """A release runs on its own trees and nothing else of this machine's Python."""
        trees = (release / "agent", release / "runtime")
        return {
            "PATH": os.defpath,
            "HOME": str(self.path),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, trees)),
            "PYTHONPYCACHEPREFIX": str(self.path / "run" / "pycache"),
            "PYTHONUNBUFFERED": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }

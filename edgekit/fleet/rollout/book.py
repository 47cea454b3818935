"""The rollouts of a project: a folder with a journal for each, numbered from 1."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.rollout.device import BEGUN, DeviceState
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.waves import RolloutPlan
from edgekit.store import fsync_folder, publish

LOOK_SECONDS = 0.5  # `holder` takes the lock for a moment to see whether it is free


class RolloutBook:
    """All rollouts of a project.

    Args:
        folder: of the journals; made with the first one, and private: names and reasons are in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> list[int]:
        """The numbers of all rollouts, growing."""
        names = [path.stem for path in self.folder.glob("*.db")]
        digits = (name for name in names if name.isascii() and name.isdigit())
        return sorted(int(name) for name in digits if not name.startswith("0"))

    def identity(self) -> str:
        """What names this project to devices, in hexadecimal.

        A random number that is made once, and the place of the folder: a copy of the project, here
        or on another machine, is another controller.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "identity"
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists():
                publish(path, secrets.token_hex(8).encode(), 0o600)
            words = f"{path.read_text('ascii')} {socket.gethostname()} {self.folder.resolve()}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def create(self, plan: RolloutPlan, now: float) -> tuple[int, RolloutJournal]:
        """Begin a rollout with the next number; two at once get two numbers.

        A journal is there once it holds its plan: who reads it meets no empty one, and a process
        that is killed leaves none.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            number = max(self.numbers(), default=0) + 1
            made, journal = RolloutJournal(self.folder / "new.tmp"), self._journal(number)
            for path in self.folder.glob("new.tmp*"):  # of a process that was killed
                path.unlink()
            made.create(plan, now, number)
            made.path.replace(journal.path)
            fsync_folder(self.folder)
        return number, journal

    def journal(self, number: int | None = None) -> RolloutJournal:
        """The journal of a rollout; of the newest without a number.

        Raises:
            UsageError: there is no rollout, or none of that number.
        """
        numbers = self.numbers()
        if not numbers:
            raise UsageError("there is no rollout yet", next_step="`edgekit push` begins one")
        if number is not None and number not in numbers:
            raise UsageError(
                f"there is no rollout {number}",
                f"the numbers of this project's rollouts are {numbers[0]} to {numbers[-1]}"
                if len(numbers) > 1
                else f"this project has rollout {numbers[0]} alone",
                "leave the number out for the newest",
            )
        return self._journal(numbers[-1] if number is None else number)

    def check_free(self, device: str) -> None:
        """Check that no rollout of this project is at work on a device.

        To the device a project is one operator: between its commands this book decides.

        Raises:
            EdgekitError: a rollout that a process runs has begun there, and has not ended.
        """
        for number in self.numbers():
            journal = self._journal(number)
            if journal.is_closed or not (by := holder(journal)):
                continue
            found = journal.replay().devices.get(device)
            if found is not None and found.state in (*BEGUN, DeviceState.GOING_BACK):
                raise EdgekitError(
                    f"rollout {number} is at work on {device}",
                    f"{by} runs it, and the device is {found.state}",
                    f"wait for it, or `edgekit pause {number}` first; --take-over does it all the "
                    "same",
                )

    def told_after(self, number: int) -> dict[str, int]:
        """The devices that a later rollout gave its release, or told to run it; and which one.

        Raises:
            VerificationError: a row of its journal is not as it was written.
        """
        found: dict[str, int] = {}
        for later in self.numbers():
            if later <= number:
                continue
            rollout = self._journal(later).replay()
            if rollout.phase in (RolloutPhase.GOING_BACK, RolloutPhase.BACK):
                continue
            for name, device in rollout.devices.items():
                joins = device.state == DeviceState.AWAY and rollout.phase != RolloutPhase.ABORTED
                if device.switched or device.state in BEGUN or joins:
                    found[name] = later
        return found

    def _journal(self, number: int) -> RolloutJournal:
        return RolloutJournal(self.folder / f"{number}.db")


def number_of(journal: RolloutJournal) -> int:
    """The number of a rollout, which names it for people."""
    return int(journal.path.stem)


def holder(journal: RolloutJournal) -> str:
    """Who runs a rollout, like `ada@host, process 4711`; empty: nobody does."""
    try:
        with _lock_file(journal).open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read() or "another process"
    except FileNotFoundError:
        pass
    return ""


@contextmanager
def holding(journal: RolloutJournal, who: str) -> Iterator[None]:
    """Run a rollout as its only controller, for the length of a block.

    Args:
        journal: of the rollout.
        who: user@host.

    Raises:
        EdgekitError: another process runs it.
    """
    with _lock_file(journal).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOOK_SECONDS
        while not _locked(file):
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise EdgekitError(
                f"rollout {number_of(journal)} is run by {holder(journal) or 'another process'}",
                "one process runs a rollout",
                f"`edgekit status {number_of(journal)} --watch` shows what it does",
            )
        file.truncate(0)
        file.write(f"{who}, process {os.getpid()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file(journal: RolloutJournal) -> Path:
    return journal.path.with_suffix(".lock")

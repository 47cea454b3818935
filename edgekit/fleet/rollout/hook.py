"""Runs an operator's command before or after a wave, on the controller.

It is an argv: no shell reads it. It runs in the project's folder with the operator's environment
and the variables of `WaveFacts`, in a process group of its own. Ctrl-C in the terminal reaches
edgekit alone, which then ends the whole group. A hook may run twice: once more after its controller
was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from edgekit.core.digest import Digest
from edgekit.errors import UsageError
from edgekit.fleet.rollout.events import HookEnded
from edgekit.fleet.rollout.waves import RolloutPlan, Terms

TAIL_BYTES = 16_384  # of the output are kept
REASON_LETTERS = 300
MOST_NAMES = 130_000  # letters of a variable; Linux has 128 KiB for it with its name
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
DRAIN_SECONDS = 1.0  # for the rest of its output, which a process that it left behind may hold open


class WaveFacts(msgspec.Struct, frozen=True):
    """What a hook is told: the rollout's number, the wave from 1 on, its devices, the release."""

    rollout: int
    wave: int
    devices: Sequence[str]
    release: Digest

    def environment(self) -> dict[str, str]:
        """The variables of a hook; names of devices have no spaces."""
        return {
            "EDGEKIT_ROLLOUT": str(self.rollout),
            "EDGEKIT_WAVE": str(self.wave),
            "EDGEKIT_DEVICES": " ".join(self.devices),
            "EDGEKIT_RELEASE": str(self.release),
        }


def check_hooks(terms: Terms, folder: Path) -> None:
    """Check that the programs of hooks are there, before a rollout begins.

    Raises:
        UsageError: one is not, or is no program.
    """
    for name in ("hook_before", "hook_after"):
        argv: list[str] = getattr(terms, name)
        program = argv[0] if argv else ""
        where = str(folder / program) if "/" in program else program
        if program and shutil.which(where) is None:
            raise UsageError(
                f"{name}: {program} is no program that this account can run",
                f"it is looked for in {folder if '/' in program else 'PATH'}",
                "correct it in [rollout] of fleet.toml, or make it executable (chmod +x)",
            )


def check_names(plan: RolloutPlan) -> None:
    """Check that a hook can be told the devices of each wave, before a rollout begins.

    Raises:
        UsageError: Linux gives a program no variable of that length.
    """
    if not (plan.terms.hook_before or plan.terms.hook_after):
        return
    for number, wave in enumerate(plan.waves, 1):
        told = WaveFacts(0, number, wave, plan.release).environment()["EDGEKIT_DEVICES"]
        if len(told) > MOST_NAMES:
            raise UsageError(
                f"wave {number} has too many devices for a hook",
                f"the names of its {len(wave)} devices have {len(told)} letters, and "
                f"EDGEKIT_DEVICES holds {MOST_NAMES}",
                "divide it with `shares` in [rollout] of fleet.toml, such as "
                "[0.05, 0.25, 0.5, 0.75, 1.0]",
            )


def run_hook(
    argv: Sequence[str],
    facts: WaveFacts,
    folder: Path,
    seconds: float,
    ended: threading.Event | None = None,
) -> HookEnded:
    """Run a hook to its end; a failure is a trouble and no exception.

    Args:
        argv: the program and its words.
        facts: what it is told.
        folder: it runs there; a program with a slash in its name is looked for there.
        seconds: it may take so long.
        ended: set by whoever wants the hook to end early.
    """
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=os.environ | facts.environment(),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return HookEnded(f"{argv[0]} does not start: {error}")
    assert child.stdout is not None
    assert child.stderr is not None
    out, errors = _Tail(child.stdout), _Tail(child.stderr)
    stopped = ""
    try:
        stopped = _wait(child, seconds, ended or threading.Event())
    finally:
        if child.poll() is None:
            _end_group(child)
    told = errors.last_line() or out.last_line()
    if not stopped and child.returncode == 0:
        return HookEnded()
    trouble = stopped or told or _exit(child.returncode)
    return HookEnded(f"{trouble}: {told}" if stopped and told else trouble)


def _wait(child: subprocess.Popen[bytes], seconds: float, ended: threading.Event) -> str:
    """Wait for the end of a hook; why it has to be ended, or nothing."""
    deadline = time.monotonic() + seconds
    while child.poll() is None:
        if time.monotonic() > deadline:
            return f"it took more than {seconds:g} s"
        if ended.wait(POLL_SECONDS) and child.poll() is None:
            return "it was interrupted"
    return ""


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End a hook and what it started; a second Ctrl-C does not leave it behind."""
    try:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _exit(code: int) -> str:
    return f"it ended with exit code {code}" if code >= 0 else f"signal {-code} ended it"


class _Tail:
    """Reads a pipe to its end and keeps the last bytes, so that a hook never waits for us."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._kept = b""
        self._pipe = pipe
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._pipe:
            while data := os.read(self._pipe.fileno(), TAIL_BYTES):
                self._kept = (self._kept + data)[-TAIL_BYTES:]

    def last_line(self) -> str:
        """The last line that is not empty, without control characters."""
        self._reader.join(DRAIN_SECONDS)
        lines = self._kept.decode("utf-8", "replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        return "".join(letter for letter in last.strip() if letter.isprintable())[-REASON_LETTERS:]

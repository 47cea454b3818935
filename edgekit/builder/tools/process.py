"""Runs one program of the toolchain: minimal environment, log file, progress, deadline.

The program gets a session of its own. Ctrl-C in the terminal then reaches edgekit alone, which ends
the whole process group. `inside/guard.py` starts the program: when edgekit itself is killed, the
kernel ends the program too, and no orphaned build keeps 20 GiB.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.tools.progress import (
    Progress,
    ProgressCallback,
    last_error,
    read_event,
    read_line,
    split_lines,
)
from edgekit.errors import EdgekitError

INSIDE = Path(__file__).resolve().parents[1] / "inside"
"""The stand-alone scripts for the toolchain's interpreter."""

POLL_SECONDS = 0.1
REPORT_EVERY_SECONDS = 1.0
LOG_TAIL_BYTES = 65_536
DISK_FULL_BELOW_BYTES = 2**20

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "OMP_NUM_THREADS")

SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads sleep where they wait for each other. By default they spin; with four other
programs on two CPUs, one step of a model then took 3.3 s instead of 0.5."""

OFFLINE = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Keeps the toolchain off the network after the download."""


class ProcessResult(msgspec.Struct, frozen=True):
    """Exit code, resource usage and output of a program that ended.

    Attributes:
        code: exit code, or minus the signal that killed it.
        seconds: wall-clock time.
        peak_rss_bytes: its peak memory (getrusage(2), `ru_maxrss`).
        cpu_seconds: user and system time of it and its children.
        events: the JSON objects that it reported, in order.
        tail: the end of its output.
        disk_full: it failed, and the disk of its log has no space left.
    """

    code: int
    seconds: float
    peak_rss_bytes: int
    cpu_seconds: float
    events: tuple[dict[str, Any], ...]
    tail: str
    disk_full: bool = False

    @property
    def error(self) -> str:
        """The line of the output that gives the reason of the failure; may be empty."""
        return last_error(self.tail)

    @property
    def reason(self) -> str:
        """The reason of the failure in one line, from its output, else from its exit code."""
        if self.code == -signal.SIGKILL:
            held = f"{self.peak_rss_bytes / 2**30:.1f} GiB"
            return f"it was killed while it held {held}: most likely the machine ran out of memory"
        if self.code < 0:
            return f"it was ended by signal {-self.code}"
        return self.error or f"it ended with exit code {self.code}"


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The few variables of the user's environment that a program needs, SLEEPING and `extra`."""
    kept = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
    return kept | SLEEPING | dict(extra)


def run(
    argv: Sequence[str],
    *,
    shows: Progress,
    log: Path,
    environment: Mapping[str, str],
    deadline_seconds: float,
    report: ProgressCallback,
    events: Path | None = None,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
) -> ProcessResult:
    """Run a program to its end, whatever its exit code.

    Args:
        shows: progress to report until an event or the output of the program gives more.
        log: file for everything that it prints.
        events: file for its events, passed as `--report FILE`.
        stdin: its standard input, as for `subprocess.Popen`.

    Raises:
        EdgekitError: the program cannot be started, or ran past the deadline.
    """
    command = [*argv, *(("--report", str(events)) if events else ())]
    guard = [sys.executable, "-I", str(INSIDE / "guard.py"), str(os.getpid()), *command]
    with log.open("wb") as output:
        try:
            child = subprocess.Popen(
                guard,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise EdgekitError(f"cannot start {argv[0]}", str(error)) from error
    try:
        return _follow(child, events, shows, log, deadline_seconds, report)
    finally:
        _end_group(child)


def _follow(
    child: subprocess.Popen[bytes],
    events: Path | None,
    shows: Progress,
    log: Path,
    deadline_seconds: float,
    report: ProgressCallback,
) -> ProcessResult:
    started = time.monotonic()
    last_report = -REPORT_EVERY_SECONDS
    current = shown = shows
    told = _Events(events)
    with log.open("rb") as output:
        while True:
            pid, status, spent = os.wait4(child.pid, os.WNOHANG)
            for line in split_lines(output.read().decode("utf-8", "replace")):
                current = read_line(shows.step, line) or current
            for news in told.read():
                current = read_event(shows.step, news) or current
            now = time.monotonic()
            if current != shown or now - last_report >= REPORT_EVERY_SECONDS:
                report(current)
                shown, last_report = current, now
            if pid:
                # Popen would otherwise wait for a process that has been reaped already
                child.returncode = os.waitstatus_to_exitcode(status)
                break
            if now - started > deadline_seconds:
                raise EdgekitError(
                    f"the step {shows.step} did not end within {deadline_seconds:g} seconds",
                    why=last_error(_tail(log)),
                )
            time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    tuple(told.read())
    # the script's own figures are better than the kernel's: with a container the child process is
    # only the engine's client
    own: dict[str, Any] = next((e for e in reversed(told.all) if e.get("event") == "usage"), {})
    return ProcessResult(
        code=child.returncode,
        seconds=seconds,
        peak_rss_bytes=int(own.get("peak_rss_bytes", spent.ru_maxrss * 1024)),  # Linux: KiB
        cpu_seconds=float(own.get("cpu_seconds", spent.ru_utime + spent.ru_stime)),
        events=tuple(told.all),
        tail=_tail(log),
        # the log itself may not have been writable, and some libraries do not name the reason
        disk_full=child.returncode != 0
        and shutil.disk_usage(log.parent).free < DISK_FULL_BELOW_BYTES,
    )


class _Events:
    """Reads a growing file of JSON lines; the incomplete line of a killed program is ignored."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._offset = 0
        self.all: list[dict[str, Any]] = []

    def read(self) -> Iterator[dict[str, Any]]:
        """The events since the last call."""
        if self._path is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                news = json.loads(
                    line
                )  # unlike msgspec it knows NaN, which a broken model computes
            except ValueError:
                continue
            if isinstance(news, dict):
                self.all.append(news)
                yield news


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the program's group; nothing is lost, because its output is temporary."""
    with suppress(ProcessLookupError, PermissionError):  # the group has ended
        os.killpg(child.pid, signal.SIGKILL)
    if child.returncode is None:
        child.wait()


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def event(finished: ProcessResult, name: str) -> dict[str, Any] | None:
    """The last event of that name, e.g. `result`."""
    return next((e for e in reversed(finished.events) if e.get("event") == name), None)

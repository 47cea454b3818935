"""Runs one program of the toolchain: cleaned environment, log file, progress, deadline.

The program gets a session of its own, so that Ctrl-C in the terminal reaches edgekit alone, which
then ends the whole group. `inside/guard.py` stands before it: when edgekit itself is killed the
kernel ends the program too, and no 20 GiB build goes on for nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.progress import Progress, Report, last_error, read_line, split_lines
from edgekit.errors import EdgekitError

INSIDE = Path(__file__).resolve().parent / "inside"
"""The stand-alone scripts for the toolchain's interpreter."""

POLL_SECONDS = 0.1
REPORT_EVERY_SECONDS = 1.0
LOG_TAIL_BYTES = 65_536

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "OMP_NUM_THREADS")

OFFLINE = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Nothing the toolchain does after the download talks to anybody."""


class Finished(msgspec.Struct, frozen=True):
    """How a program ended.

    Attributes:
        code: exit code, or minus the signal that killed it.
        seconds: wall-clock time.
        peak_rss_bytes: the most memory it held at once (getrusage(2), `ru_maxrss`).
        events: the JSON objects it reported on its own descriptor, in order.
        tail: the end of what it printed.
    """

    code: int
    seconds: float
    peak_rss_bytes: int
    events: tuple[dict[str, Any], ...]
    tail: str

    @property
    def error(self) -> str:
        """The line of the output that says why it failed; may be empty."""
        return last_error(self.tail)

    @property
    def reason(self) -> str:
        """Why it failed, in one line: what it said, or how it ended."""
        if self.code == -signal.SIGKILL:
            held = f"{self.peak_rss_bytes / 2**30:.1f} GiB"
            return f"it was killed while it held {held}: most likely the machine ran out of memory"
        if self.code < 0:
            return f"it was ended by signal {-self.code}"
        return self.error or f"it ended with exit code {self.code}"


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The few variables a program needs, and `extra`; nothing else of the user's shell."""
    return {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ} | dict(extra)


def run(
    argv: Sequence[str],
    *,
    shows: Progress,
    log: Path,
    environment: Mapping[str, str],
    deadline_seconds: float,
    report: Report,
    reports_events: bool = False,
    cwd: Path | None = None,
) -> Finished:
    """Run a program to its end, whatever its exit code.

    Args:
        shows: reported until the program prints something that says more.
        log: file that takes everything it prints.
        reports_events: whether it takes `--report-fd N` and writes JSON lines there.

    Raises:
        EdgekitError: it cannot be started, or ran past the deadline.
    """
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(read_end, False)
        command = [*argv, *(("--report-fd", str(write_end)) if reports_events else ())]
        guard = [sys.executable, "-I", str(INSIDE / "guard.py"), str(os.getpid()), *command]
        with log.open("wb") as output:
            try:
                child = subprocess.Popen(
                    guard,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    cwd=cwd,
                    start_new_session=True,
                    pass_fds=(write_end,) if reports_events else (),
                )
            except OSError as error:
                raise EdgekitError(f"cannot start {argv[0]}", str(error)) from error
        os.close(write_end)
        write_end = -1
        try:
            return _follow(child, read_end, shows, log, deadline_seconds, report)
        finally:
            _end_group(child)
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)


def _follow(
    child: subprocess.Popen[bytes],
    events_from: int,
    shows: Progress,
    log: Path,
    deadline_seconds: float,
    report: Report,
) -> Finished:
    started = time.monotonic()
    last_report = -REPORT_EVERY_SECONDS
    current = shown = shows
    reported = b""
    with log.open("rb") as output:
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            reported += _drain(events_from)
            for line in split_lines(output.read().decode("utf-8", "replace")):
                current = read_line(shows.step, line) or current
            now = time.monotonic()
            if current != shown or now - last_report >= REPORT_EVERY_SECONDS:
                report(current)
                shown, last_report = current, now
            if pid:
                # told to Popen, which would otherwise wait for a process that is gone
                child.returncode = os.waitstatus_to_exitcode(status)
                break
            if now - started > deadline_seconds:
                raise EdgekitError(
                    f"the step {shows.step} did not end within {deadline_seconds:g} seconds",
                    why=last_error(_tail(log)),
                )
            time.sleep(POLL_SECONDS)
    return Finished(
        code=child.returncode,
        seconds=time.monotonic() - started,
        peak_rss_bytes=usage.ru_maxrss * 1024,  # Linux counts in KiB
        events=tuple(_decode(reported)),
        tail=_tail(log),
    )


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program's group; its output is temporary, so nothing is lost."""
    with suppress(ProcessLookupError, PermissionError):  # all gone
        os.killpg(child.pid, signal.SIGKILL)
    if child.returncode is None:
        child.wait()


def _drain(descriptor: int) -> bytes:
    data = b""
    try:
        while block := os.read(descriptor, 65_536):
            data += block
    except BlockingIOError:
        pass
    return data


def _decode(lines: bytes) -> list[dict[str, Any]]:
    events = []
    for line in lines.splitlines():
        try:
            events.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            continue  # a killed program may leave half a line
    return events


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def event(finished: Finished, name: str) -> dict[str, Any] | None:
    """The last event of that name, e.g. `result`."""
    return next((e for e in reversed(finished.events) if e.get("event") == name), None)

"""A real terminal in a test: tmux runs a program, takes keys and says what is on the screen."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import tools

WAIT_SECONDS = 30.0
UTF8 = {"LC_ALL": "C.UTF-8"}  # every character can be shown


@dataclass(frozen=True)
class TmuxWindow:
    """One program in a window of a tmux server that nobody else uses."""

    socket: Path

    def run(self, *arguments: str) -> str:
        """Run a command of tmux."""
        done = subprocess.run(
            [tools.find("tmux"), "-S", str(self.socket), "-f", "/dev/null", *arguments],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text: str, *keys: str) -> None:
        """Type a text, then press keys by tmux' names, such as Enter, C-c and M-Enter."""
        if text:
            self.run("send-keys", "-l", "--", text)
        if keys:
            self.run("send-keys", *keys)

    @property
    def screen(self) -> str:
        """What is to be seen."""
        return self.run("capture-pane", "-p")

    @property
    def everything(self) -> str:
        """What is to be seen and what has scrolled away, with wrapped lines joined."""
        return self.run("capture-pane", "-p", "-J", "-S", "-")

    def wait_for(self, text: str, seconds: float = WAIT_SECONDS) -> str:
        """Wait until a text can be seen, or has been; returns everything."""
        deadline = time.monotonic() + seconds
        while text not in (told := self.everything):
            assert time.monotonic() < deadline, f"{text!r} does not come:\n{told}"
            time.sleep(0.05)
        return told

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self.run("resize-window", "-x", str(width), "-y", str(height))

    @property
    def pid(self) -> int:
        """The program's process."""
        return int(self.run("display-message", "-p", "#{pane_pid}"))

    @property
    def ended(self) -> int | None:
        """The program's exit status once it has ended."""
        told = self.run("display-message", "-p", "#{pid} #{pane_dead} #{pane_dead_status}").split()
        if told[1] == "1" and len(told) == 2:
            os.kill(int(told[0]), signal.SIGCHLD)  # tmux 3.3a misses some: the child is a zombie
        return int(told[2]) if len(told) == 3 else None

    def end_of(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for the program's end; its exit status."""
        tools.eventually(lambda: self.ended is not None, seconds, f"the end:\n{self.everything}")
        status = self.ended
        assert status is not None
        return status


@contextmanager
def tmux(
    folder: Path, command: Sequence[str], *, width: int = 100, height: int = 30,
    cwd: Path | None = None, environment: Mapping[str, str] = UTF8,
) -> Iterator[TmuxWindow]:  # fmt: skip
    """Run a program in a terminal of its own; what is left of it ends with the block."""
    window = TmuxWindow(folder / "tmux")
    told = [f"{name}={value}" for name, value in environment.items()]
    # pytest imports readline, which puts LINES and COLUMNS into the environment that C sees: rich
    # believes them more than the terminal
    line = shlex.join(["env", "-u", "LINES", "-u", "COLUMNS", *told, *command])
    size = ("-x", str(width), "-y", str(height))
    where = ("-c", str(cwd or folder))
    with tools.interruptible():
        window.run(
            "new-session", "-d", *size, *where, f"exec {line}", ";", "set", "remain-on-exit", "on"
        )
    try:
        yield window
    finally:
        window.run("kill-server")


def edgekit(*arguments: str) -> list[str]:
    """A command line of edgekit."""
    return [sys.executable, "-m", "edgekit", *arguments]

"""A question on a terminal stays there until it is answered, whatever else draws on it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit import terminal
from tests import tools

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import os, sys, time
os.open(sys.argv[1], os.O_RDWR)  # the first terminal of a session is its terminal
from pathlib import Path
from edgekit.cli import questions, render
from edgekit.fleet.ssh.passphrase import unlock
with render.transfers() as bars:
    for name in ("one", "two", "three"):
        bars.update(name, "transfer", 1, 2)
    time.sleep(0.2)
    answer = {question}
    bars.update("one", "after", 2, 2)
    time.sleep(0.2)
print("answer:", answer)
"""
QUESTIONS = {
    'questions.secret("sudo password on pi")': ("on pi: ", "geheim", "geheim"),
    'questions.confirm("Is this the device\'s?")': ("[y/N]: ", "y", "True"),
    "unlock(Path(sys.argv[2])).get_name()": ("key': ", "geheim", "ssh-ed25519"),
}
QUIET_SECONDS = 0.4  # a spinner moves four times


@pytest.mark.parametrize("question", QUESTIONS)
def test_nothing_is_drawn_over_a_question(question: str, tmp_path: Path) -> None:
    asked, answer, result = QUESTIONS[question]
    key = tmp_path / "key"
    make = ("-q", "-t", "ed25519", "-N", answer, "-f", str(key))
    if "unlock" in question:
        subprocess.run([tools.find("ssh-keygen"), *make], check=True)
    ours, theirs = pty.openpty()
    program = PROGRAM.format(question=question)
    process = subprocess.Popen(
        [sys.executable, "-c", program, os.ttyname(theirs), str(key)],
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    before = b""
    while not before.endswith(asked.encode()):
        before += os.read(ours, 4096)
    meanwhile, until = b"", time.monotonic() + QUIET_SECONDS
    while (left := until - time.monotonic()) > 0:
        if select.select([ours], [], [], left)[0]:
            meanwhile += os.read(ours, 4096)
    os.write(ours, f"{answer}\n".encode())
    after = b""
    with suppress(OSError):  # a terminal that nobody has open any more
        while data := os.read(ours, 4096):
            after += data
    os.close(ours)
    assert process.wait(20) == 0, after
    assert b"three: transfer" in before
    assert meanwhile == b""
    answered, *_ = after.partition(b"one: ")
    assert b"\x1b[1A" not in answered, "what stands above is not erased"
    assert b"three: transfer" in after
    assert f"answer: {result}".encode() in after


def test_a_drawing_that_cannot_stop_does_not_end_all_drawing() -> None:
    """As where the terminal is gone."""
    begun: list[str] = []

    def gone() -> None:
        raise OSError("it is gone")

    with (
        pytest.raises(OSError, match="gone"),
        terminal.drawing(terminal.TerminalDrawing(lambda: begun.append("first"), gone)),
        terminal.question(),
    ):
        pass
    with terminal.drawing(terminal.TerminalDrawing(lambda: begun.append("next"), begun.clear)):
        assert begun[-1] == "next"

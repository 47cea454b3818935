"""A command does the same where Python starts it and where the tests' warm interpreter does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tools
from tests.commands import edgekit


def ended(
    program: list[str], folder: Path, stdin: str = "", **environment: str
) -> tuple[int, str, str]:
    """The exit code, standard output and standard error."""
    done = subprocess.run(
        program, cwd=folder, input=stdin, env=os.environ | environment, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert ended(edgekit("init", "fleet"), tmp_path)[0] == 0
    return tmp_path / "fleet"


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["push", "--help"],
        ["push", "--nothing"],
        ["pusch"],
        ["state", "demo", "--json"],
        ["state", "größe"],
        ["inspect"],
        ["ask", "demo", "-", "--broker", "127.0.0.1:1"],
        ["verify", "none"],
    ],
    ids=" ".join,
)
def test_both_say_the_same_and_end_alike(words: list[str], project: Path) -> None:
    real = ended([sys.executable, "-m", "edgekit", *words], project, "Hi")
    assert any(real[1:])
    assert ended(edgekit(*words), project, "Hi") == real


def test_what_the_warm_one_could_not_do_alike_is_pythons(project: Path) -> None:
    """Another encoding, and a program that is no verb."""
    words, odd = ["state", "größe"], {"PYTHONIOENCODING": "ascii:backslashreplace"}
    real = ended([sys.executable, "-m", "edgekit", *words], project, **odd)
    assert ended(edgekit(*words), project, **odd) == real
    warm = edgekit()[0]
    assert warm != sys.executable
    code = "import sys; print(sys.argv[1:], 'paramiko' in sys.modules)"
    assert ended([warm, "-c", code, "a"], project) == (0, "['a'] False\n", "")


def test_a_command_is_a_fork_and_ends_with_who_started_it(tmp_path: Path) -> None:
    port = tools.free_port()
    with subprocess.Popen(
        edgekit("broker", "run", "--port", str(port)), cwd=tmp_path,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as started:  # fmt: skip
        try:
            tools.wait_for_port(port, started)
            stand_in = Path(f"/proc/{started.pid}/cmdline").read_bytes().split(b"\0")
            assert b"-IS" in stand_in, "it passed the command on"
        finally:
            started.kill()
    tools.eventually(lambda: not listens(port), 10, "the broker is gone")


def listens(port: int) -> bool:
    """Whether something takes connections there."""
    try:
        tools.connect(port)
    except ConnectionRefusedError:
        return False
    return True

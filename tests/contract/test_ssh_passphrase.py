"""An encrypted private key: a hint without a terminal, a question on one; the agent comes first."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.harness.ssh_account import Login, logged_in

pytestmark = pytest.mark.timeout(60)

PHRASE = "geheim wört"
PROGRAM = """
import os, sys
if sys.argv[1]:
    os.open(sys.argv[1], os.O_RDWR)  # the first terminal of a session is its terminal
from edgekit.errors import EdgekitError
from edgekit.fleet.link.remote import SshRemote
for _ in range(2):
    try:
        print(SshRemote("device").run(("echo", "we are in")).stdout)
    except EdgekitError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """An account whose key is encrypted."""
    with logged_in(tmp_path_factory.mktemp("account")) as login:
        login.runs('exec sh -c "$SSH_ORIGINAL_COMMAND"')
        shutil.copy(login.server.identity, login.server.identity.with_name("plain"))
        change = ("-q", "-p", "-N", PHRASE, "-f", str(login.server.identity))
        subprocess.run([tools.find("ssh-keygen"), *change], check=True, stdout=subprocess.DEVNULL)
        yield login


def typed(answers: list[str]) -> str:
    """What two connections in one process say on a terminal when these answers are typed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, os.ttyname(theirs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for answer in answers:
        asked = b""
        while not asked.endswith(b": "):
            asked += os.read(ours, 1024)
        assert b"Enter passphrase for key" in asked
        time.sleep(0.05)  # getpass discards what was typed before it asks
        os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=50)
    os.close(ours)
    os.close(theirs)
    return out


def said_without_a_terminal() -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ""],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_without_a_terminal_the_key_is_named_with_what_to_do(device: Login) -> None:
    said = said_without_a_terminal()
    assert said.count(f"{device.server.identity} is encrypted") == 2
    assert f"`ssh-add {device.server.identity}`" in said


def test_on_a_terminal_the_passphrase_is_asked_for_once(device: Login) -> None:
    assert typed(["no", PHRASE]) == "b'we are in\\n'\n" * 2


def test_three_wrong_passphrases_or_none_are_enough(device: Login) -> None:
    out = typed(["no", "no", "no", ""])
    assert out.count("is encrypted: give it to the agent") == 2


def test_a_key_that_the_agent_has_needs_no_passphrase(
    device: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "agent")
    agent = subprocess.Popen(
        [tools.find("ssh-agent"), "-D", "-a", place], stdout=subprocess.DEVNULL
    )
    try:
        tools.eventually(lambda: Path(place).exists(), 10)
        monkeypatch.setenv("SSH_AUTH_SOCK", place)
        assert "is encrypted" in said_without_a_terminal()
        plain = str(device.server.identity.with_name("plain"))
        subprocess.run([tools.find("ssh-add"), "-q", plain], check=True)
        assert said_without_a_terminal() == "b'we are in\\n'\n" * 2
    finally:
        agent.terminate()
        agent.wait(10)

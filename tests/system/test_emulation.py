"""Programs for arm64 run on this machine while a block asks for it, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import tools
from tests.harness.emulation import emulated_arm64, registered

BLOCK = """
import sys
from tests.harness.emulation import emulated_arm64
with emulated_arm64():
    print("told", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="telling the kernel needs root")


def runs() -> bool:
    """Whether this kernel runs a program for arm64."""
    argv = [tools.find("arch-test"), "arm64"]
    return subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode == 0


def test_it_is_there_until_the_last_block_ends() -> None:
    argv = [sys.executable, "-c", BLOCK]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == b"told\n"
        with emulated_arm64():
            assert runs()
            other.stdin.close()
            assert other.wait(30) == 0
            assert registered()
            assert runs()


def test_what_a_killed_process_left_goes_with_the_next_block() -> None:
    argv = [sys.executable, "-c", BLOCK]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout
        assert killed.stdout.readline() == b"told\n"
        killed.kill()
    with emulated_arm64():
        assert runs()


def test_a_machine_that_gives_no_binfmt_misc_fails_by_name() -> None:
    argv = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", BLOCK]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "this kernel gives no binfmt_misc for arm64" in done.stderr

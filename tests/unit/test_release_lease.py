"""Whose push it is: the process behind the verb, as long as it runs."""

from __future__ import annotations

import os
import subprocess
import time

from edgekit.agent.release import lease


def test_a_process_that_only_waits_to_be_reaped_holds_no_lease() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert lease._identity(child.pid).startswith(f"{child.pid} ")
    child.kill()
    deadline = time.monotonic() + 10
    while lease._identity(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, 0)  # its number is still taken: it is a zombie
    child.wait()


def test_a_number_nobody_has_is_no_process() -> None:
    assert lease._identity(2**22 + 1) == ""

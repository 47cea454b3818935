"""What `python -m tests` says of the time that a run took."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.spent import Spent


def test_the_longest_files_come_first_with_a_sum_of_all() -> None:
    spent = Spent()
    for file, seconds, cpu in (("a.py", 1.0, 0.5), ("b.py", 5.0, 2.0), ("a.py", 1.5, 0.25)):
        spent.add(file, seconds, cpu)
    first, second, all_of_them, machine = spent.lines()
    assert first.split() == ["5.0", "s", "2.0", "s", "CPU", "b.py"]
    assert second.split() == ["2.5", "s", "0.8", "s", "CPU", "a.py"]
    assert all_of_them.split() == ["7.5", "s", "2.8", "s", "CPU", "all", "2", "files"]
    assert f"the machine's {os.cpu_count()} CPUs were busy for" in machine


def test_a_program_that_was_waited_for_counts_and_sleep_does_not() -> None:
    spent = Spent()
    busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert spent.look() >= 0.2
    time.sleep(0.3)
    assert spent.look() < 0.2

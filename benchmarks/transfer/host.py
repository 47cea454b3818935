"""The side of the devices: `python -m benchmarks.transfer.host SSHD CONFIG` runs an sshd.

For each line on standard input it says, as a number, how many seconds of CPU its processes have
taken in all. What a session leaves behind is its child, too, so that no process is left out.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
SETTLE_SECONDS = 0.3  # until the processes of a session that has ended are gone


def used() -> float:
    """CPU seconds of every child that has ended."""
    time.sleep(SETTLE_SECONDS)
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def main() -> None:
    """Run the sshd until standard input ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sshd, config = sys.argv[1:]
    process = subprocess.Popen([sshd, "-D", "-f", config], stdin=subprocess.DEVNULL)

    def reap() -> None:
        while True:
            for path in Path("/proc/self/task").glob("*/children"):
                for pid in path.read_text().split():
                    if int(pid) != process.pid:
                        os.waitpid(int(pid), os.WNOHANG)
            time.sleep(0.05)

    threading.Thread(target=reap, daemon=True).start()
    for _ in sys.stdin:
        ended = used()
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        of_sshd = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its children's, too
        print(ended + of_sshd, flush=True)
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()

"""Executes the program named on its command line, which the kernel kills with its parent.

    python guard.py PARENT_PID PROGRAM [ARGUMENT ...]

Asks the kernel to kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG, which lasts
across execve), and executes the program in its place.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 (the point of this script)


if __name__ == "__main__":
    main()

"""The first program of a container: runs another program, and kills it when standard input closes.

    python leash.py PROGRAM [ARGUMENT ...]

The engine's client holds the other end. When it is killed, even by SIGKILL, the kernel closes that
end, and no orphaned build goes on. A signal to the client would not reach the container.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Exit with the program's code, or 128 + signal if a signal ended it, as a shell does."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(128 + signal.SIGKILL)  # with the first process the kernel ends all others

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()

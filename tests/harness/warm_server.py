"""An interpreter that has imported what takes seconds, and forks for each script that it is to run.

python warm_server.py NUMBER MODULE...    (of a listening socket; ends with its standard input)

`warm_python.py` stands where the interpreter would and passes on what it was given: a script, or
`-m` and a module. It has a process of its own, its files, folder, environment and exit code; it is
killed with its stand-in.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
HEADER_BYTES = 8


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What is to be run, and its standard input, output and error."""
    size = array.array("i", [0, 0, 0]).itemsize * 3
    head, ancillary, _, _ = connection.recvmsg(HEADER_BYTES, socket.CMSG_SPACE(size))
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data)
    body = b""
    while len(body) < int.from_bytes(head, "big"):
        body += connection.recv(1 << 20)
    return json.loads(body), list(files)


def become(job: dict[str, Any], files: list[int]) -> None:
    """Run the script or module in this process, and end it."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # The one of before believes that its file is still that of the server
    sys.stdout = open(1, "w", encoding=sys.stdout.encoding, closefd=False)  # noqa: SIM115  stays
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv[:] = job["arguments"]
    code = 0
    try:
        if sys.argv[0] == "-m":
            module, sys.path[0] = sys.argv.pop(1), job["folder"]
            sys.modules.pop(f"{module}.__main__", None)  # one of its own may have imported it
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        if isinstance(done.code, str):
            sys.stderr.write(f"{done.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        # waits for its threads, as an interpreter that ends does; there is no public name for it
        threading._shutdown()  # type: ignore[attr-defined] # not in typeshed
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def serve(connection: socket.socket) -> None:
    """Start the script, tell how it ended, or end it when the stand-in is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job, files = read(connection)
    child = os.fork()
    if child == 0:
        connection.close()
        become(job, files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    either: list[Any] = [ended, connection]
    ready, _, _ = select.select(either, [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.freeze()  # a child would copy what its collector looks at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        while True:
            # standard input ends with the tests
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listening.accept()
            if os.fork() == 0:
                die_with_parent()
                listening.close()
                serve(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    main()

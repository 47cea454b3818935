"""Stands where an interpreter would: passes a script or module on to `warm_server.py`.

What the server could not do alike is done by the interpreter itself: another environment, another
view of the file system or the network, a terminal, other limits, other options of Python.
"""

import array
import json
import os
import resource
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)


def surroundings() -> dict[str, Any]:
    """What a process inherits and no environment variable says."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        **{name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in ("mnt", "net", "pid")},
        "user": [os.getuid(), os.getgid()],
        "umask": mask,
        "limits": [resource.getrlimit(limit)[0] for limit in LIMITS],
        "terminal": any(map(terminal, range(3))),
    }


def terminal(file: int) -> bool:
    """Whether a file is a terminal, or closed."""
    try:
        return stat.S_ISCHR(os.fstat(file).st_mode) and os.isatty(file)
    except OSError:
        return True


def alike(settings: dict[str, Any]) -> bool:
    """Whether the server sees the same files, and imported its modules in the same environment."""
    here = surroundings()
    if any(here[name] != value for name, value in settings["surroundings"].items()):
        return False
    ours, theirs = (
        {key: value for key, value in variables.items() if key not in settings["free"]}
        for variables in (os.environ, settings["environment"])
    )
    return ours == theirs


def passed_on(address: str, arguments: list[str]) -> int:
    """Run a script there; its exit code, or minus the signal that ended it."""
    job = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    body = json.dumps(job).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        files = array.array("i", [0, 1, 2])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
        server.sendmsg([len(body).to_bytes(8, "big")], rights)
        server.sendall(body)
        said = b""
        while piece := server.recv(64):
            said += piece
    return int(said or b"1")


def main() -> None:
    folder = Path(sys.argv[0]).parent.parent
    settings = json.loads((folder / "warm.json").read_text())
    given, options = sys.argv[1:], settings["options"]
    arguments = given[len(options) :]
    known = arguments[:2] == settings["module"] or not arguments[0].startswith("-")
    if given[: len(options)] != options or not known or not alike(settings):
        real = settings["python"]
        os.execv(real, [real, *given])
    code = passed_on(settings["address"], arguments)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()

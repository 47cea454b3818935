"""Stands where the toolchain's interpreter would: passes a script on to `warm_server.py`.

What the server could not do alike is done by the interpreter itself: another environment, another
view of the file system, no script.
"""

import array
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

# what a script may find another value of, and nothing that it has imported by then has read
FREE = {"PATH", "HOME", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}


def alike(settings: dict[str, Any]) -> bool:
    """Whether the server sees the same files, and imported its modules in the same environment."""
    if Path("/proc/self/ns/mnt").stat().st_ino != settings["mounts"]:
        return False
    ours, theirs = (
        {key: value for key, value in variables.items() if key not in FREE}
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
    options, arguments = sys.argv[1:3], sys.argv[3:]
    if options != ["-E", "-s"] or arguments[0].startswith("-") or not alike(settings):
        real = settings["python"]
        os.execv(real, [real, *sys.argv[1:]])
    code = passed_on(settings["address"], arguments)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


main()

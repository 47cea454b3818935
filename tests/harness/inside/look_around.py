"""Tells what a job can see and do where it runs; or takes memory, or waits.

python look_around.py [--take BYTES] [--wait] [--read FILE] --report FILE
"""

# mypy: disable-error-code="import-not-found"

import argparse
import os
import socket
import time
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run


def tried(action: Any) -> str:
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "worked"


def look(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    if args.take:
        held = bytearray(args.take)
        for place in range(0, len(held), 4096):
            held[place] = 1
    if args.wait:
        reporter.progress("waiting")
        time.sleep(600)
    return {
        "uid": os.getuid(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "capabilities": Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0],
        "home": os.environ["HOME"],
        "writes_root": tried(lambda: Path("/usr/planted").write_text("x")),
        "writes_input": tried(lambda: args.read.write_text("x")) if args.read else "",
        "reads_input": args.read.read_text() if args.read else "",
        "sees": sorted(path.name for path in args.read.parent.iterdir()) if args.read else [],
        "writes_work": tried(lambda: Path("made").write_text("made")),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--take", type=int, default=0)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--read", type=Path)
    run(parser, look)

"""`python -m benchmarks`: measure figures and print or write them."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edgekit
from benchmarks import (
    agent,
    build,
    demo,
    device,
    gateway,
    parent,
    pictures,
    push,
    render,
    runtimes,
    schemas,
    sharing,
    trial,
    verify,
)
from benchmarks.figure import Figure, Result, registered
from benchmarks.models import SMOLLM2
from benchmarks.rig import Rig
from benchmarks.transfer import again
from benchmarks.transfer import figures as transfer
from edgekit.errors import EdgekitError, UsageError

# importing one registers its figures
MODULES = (
    agent,
    schemas,
    sharing,
    pictures,
    runtimes,
    parent,
    build,
    push,
    transfer,
    again,
    trial,
    device,
    verify,
    gateway,
    demo,
)
TABLES = tuple(Path(__file__).parent.parent / name for name in ("README.md", "docs/figures.md"))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures; default: all")
    parser.add_argument("--list", action="store_true", help="print the figures and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--model",
        default=SMOLLM2,
        metavar="smollm2|phi35|DIR",
        help="the model of agent.* and push.*",
    )
    parser.add_argument("--tls", action="store_true", help="with TLS to the broker, both ways")
    parser.add_argument("--rounds", type=int, default=5, help="samples per figure; default: 5")
    parser.add_argument(
        "--write", action="store_true", help="rewrite the tables in README and docs/figures.md"
    )
    return parser.parse_args(argv)


def _chosen(names: Sequence[str]) -> list[Figure]:
    known = registered()
    for name in names:
        if name not in known:
            raise UsageError(f"there is no figure {name!r}", next_step="--list shows them")
    return [known[name] for name in names] or list(known.values())


def _circumstances(model: str) -> dict[str, Any]:
    cpu = platform.machine()
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            cpu = text.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),  # above 0.5 somebody else is working
        "model": model,
        "edgekit": edgekit.__version__,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def run(argv: Sequence[str] | None = None) -> None:
    """Do what the arguments say.

    A figure that cannot be measured is left out, and the others are measured all the same.

    Raises:
        EdgekitError: that happened, or the arguments are wrong.
    """
    arguments = _arguments(argv)
    figures = _chosen(arguments.names)
    if arguments.list:
        print(render.listing(figures))
        return
    if arguments.rounds < 1:
        raise UsageError("--rounds must be 1 or more")
    if arguments.write:
        if arguments.tls:
            raise UsageError("--write takes no --tls", "the tables are of plain TCP")
        render.check(TABLES)
    circumstances = _circumstances(arguments.model) | {"tls": arguments.tls}
    results, failed = [], []
    with Rig(arguments.rounds, arguments.model, tls=arguments.tls) as rig:
        for figure in figures:
            print(f"measuring {figure.name}", file=sys.stderr, flush=True)
            try:
                results.append(Result(figure, tuple(figure.measure(rig))))
            except EdgekitError as error:
                failed.append(figure.name)
                print(f"{figure.name}: {error}", file=sys.stderr, flush=True)
                continue
            if not arguments.json:
                print(render.line(results[-1]), flush=True)
    if arguments.json:
        print(render.as_json(results, circumstances))
    if arguments.write and results:
        table = render.table(results, circumstances)
        if arguments.names:  # the other rows stay
            table = render.merged(render.read_table(TABLES[0]), results, circumstances)
        render.rewrite(TABLES, table)
    if failed:
        raise EdgekitError(f"not measured: {', '.join(failed)}", "the reasons are above")


def main() -> None:
    """Entry point: an error is an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the device and the broker end with us
    # pip compiles what it installs. Images for containers like to forbid bytecode: each command
    # would then compile edgekit within the time that is measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        run()
    except EdgekitError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""The reports of the scripts: JSON lines in a file, one event per line.

    {"event": "progress", "detail": TEXT, "fraction": 0..1 or null}
    {"event": "result", …}            the script's result; last but one
    {"event": "error", "kind": …, "message": …}   instead of a result; the script ends with 1
    {"event": "usage", "peak_rss_bytes": N, "cpu_seconds": S}   always last

It is a file because not every container engine passes a descriptor into its containers.
"""

import argparse
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ScriptError(Exception):
    """An error that a script raises itself; `kind` is a stable word, the message is one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Reporter:
    """Writes events; each line is flushed, because edgekit follows the file while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def progress(self, detail: str, fraction: float | None = None) -> None:
        """Report the current activity and its completed share, 0 to 1."""
        self.event("progress", detail=detail, fraction=fraction)

    def event(self, event: str, **values: object) -> None:
        """Write one event."""
        self._file.write(json.dumps({"event": event, **values}) + "\n")


def usage() -> dict[str, float]:
    """Peak memory of this process (getrusage(2); Linux counts in KiB), and CPU seconds of it and
    its children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "peak_rss_bytes": own.ru_maxrss * 1024,
        "cpu_seconds": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
    }


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, Reporter], dict[str, Any]],
    kind_of: Callable[[Exception], str] = lambda error: type(error).__name__,
) -> None:
    """Parse the command line, do the work, report its result or its error, and exit.

    Args:
        parser: for all arguments but `--report FILE`, which is added here.
        work: returns the fields of the result event.
        kind_of: the stable word for an exception of `work`.
    """
    parser.add_argument("--report", type=Path, required=True, help="file that takes the events")
    args = parser.parse_args()
    reporter = Reporter(args.report)
    try:
        reporter.event("result", **work(args, reporter))
    except Exception as error:  # the exception of any library is the reason to report
        import traceback

        traceback.print_exc()  # for the log
        kind = error.kind if isinstance(error, ScriptError) else kind_of(error)
        # the text of a KeyError is only the key
        bare = isinstance(error, LookupError) or not str(error).strip()
        text = f"{type(error).__name__}: {error}" if bare else str(error)
        reporter.event("error", kind=kind, message=text.strip().splitlines()[0])
        reporter.event("usage", **usage())
        sys.exit(1)
    reporter.event("usage", **usage())

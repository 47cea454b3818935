"""`python -m tests.matrix`: build every architecture and compare it with transformers."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import msgspec

from edgekit.builder.tools.host import HostToolchain
from edgekit.errors import EdgekitError
from tests.building import silent
from tests.matrix import table
from tests.matrix.extras import EXTRAS
from tests.matrix.row import Row, counts
from tests.matrix.run import Bench, make_checkpoints, reason, run_family
from tests.matrix.shapes import FAMILIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
WORKERS = 2

Case = Callable[[], Row]


def cases(bench: Bench, only: Sequence[str]) -> Iterator[tuple[Row, Case | None]]:
    """An empty row and what fills it, None where that is not to be tested."""

    def wanted(name: str) -> bool:
        return not only or any(word.lower() in name.lower() for word in only)

    families = [family for family in FAMILIES if wanted(family.name)]
    made = make_checkpoints(bench, families) if any(f.config for f in families) else {}
    for family in families:
        row = Row(family.name, "not tested", note=family.why_not)
        if family.name not in made:
            yield row, None
            continue
        source, problem = made[family.name]
        if problem:
            yield Row(family.name, "failed", note=f"no checkpoint: {problem}"), None
        else:
            yield row, partial(run_family, bench, family, source)
    for extra in EXTRAS:
        if wanted(extra.name):
            row = Row(extra.name, "not tested", group=extra.group)
            yield row, partial(extra.run, bench, extra.name)


def filled(row: Row, case: Case) -> Row:
    """The row of a case, whatever happens to it."""
    started = time.monotonic()
    try:
        done = case()
    except EdgekitError as error:
        done = msgspec.structs.replace(row, status="failed", note=reason(error))
    except Exception as error:  # one case must not cost the others
        note = f"{type(error).__name__}: {error}".splitlines()[0]
        done = msgspec.structs.replace(row, status="failed", note=note)
    return msgspec.structs.replace(done, seconds=round(time.monotonic() - started, 1))


def run(bench: Bench, only: Sequence[str], show: Callable[[Row], None]) -> list[Row]:
    """Every row, in the order of the data; `show` sees each as it is done."""
    rows: dict[str, Row] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = []
        for row, case in cases(bench, only):
            rows[row.name] = row
            if case:
                waiting.append(pool.submit(filled, row, case))
            else:
                show(row)
        for future in as_completed(waiting):
            rows[future.result().name] = future.result()
            show(future.result())
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 when a case that should work does not."""
    # so that make's own end, too, ends what runs and removes the folder
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser("python -m tests.matrix", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="part of a name")
    parser.add_argument("--write", action="store_true", help="rewrite docs/architectures.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work there, and leave it")
    arguments = parser.parse_args(argv)
    if arguments.write and arguments.only:
        parser.error("--write takes no --only: the table holds one whole run")
    toolchain = HostToolchain()
    toolchain.ready(silent)
    started = time.monotonic()

    def show(row: Row) -> None:
        print(table.line(row), file=sys.stderr if arguments.json else sys.stdout, flush=True)

    with tempfile.TemporaryDirectory(prefix="matrix-") as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = run(Bench(folder, toolchain), arguments.only, show)
    seconds = round(time.monotonic() - started)
    if arguments.json:
        content = {"rows": rows, "counts": counts(rows), "seconds": seconds}
        print(msgspec.json.encode(content).decode())
    else:
        print(f"{table.summary(rows)}, {seconds} s")
    if arguments.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(table.rewritten(text, rows, toolchain.tools), encoding="utf-8")
    return 1 if counts(rows)["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Counts in how many SSH configurations OpenSSH and edgekit agree.

`python -m tests.show.openssh_oracle` prints the table of all of them.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.harness.openssh_cases import CASES
from tests.harness.openssh_oracle import Compared, compare
from tests.harness.openssh_world import world
from tests.show import Figures


def compared(names: list[str] | None = None) -> list[Compared]:
    """Both sides of every case, or of the cases whose names contain one of the words."""
    chosen = [case for case in CASES if not names or any(word in case.name for word in names)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "servers").mkdir()
        with world(folder / "servers") as servers:
            return [
                compare(case, servers, folder / f"case{number}")
                for number, case in enumerate(chosen)
            ]


def count() -> tuple[Figures, bool]:
    """The figures, and whether nothing disagrees."""
    rows = compared()
    results = Counter(row.result for row in rows)
    figures: Figures = {
        "configurations": len(rows),
        "agreements": results["agree"],
        "refused_by_name": results["refused"],
        "disagreements": results["disagree"],
    }
    return figures, not results["disagree"] and len(rows) >= 40


def main(names: list[str]) -> int:
    """Print the table, and both sides in full where they disagree."""
    rows = compared(names)
    print(f"{'result':9} {'OpenSSH':14} {'edgekit':14} {'host key':19} configuration")
    for row in rows:
        print(row.row())
        if row.result == "disagree":
            print(f"--- OpenSSH {row.openssh.seen()}\n{row.openssh.said}")
            print(f"--- edgekit {row.edgekit.seen()}\n{row.edgekit.said}")
    return int(any(row.result == "disagree" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

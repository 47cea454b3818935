"""`python -m tests.show NAME…`: one line for each count; exit 1 where one is not as it must be."""

from __future__ import annotations

import argparse
import sys

from tests.show import available, show


def main(arguments: list[str] | None = None) -> int:
    """Run the counts that are named, all without a name."""
    table = available()
    parser = argparse.ArgumentParser(prog="python -m tests.show", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="print the names")
    asked = parser.parse_args(arguments)
    if asked.list:
        print("\n".join(f"{name:16} {what}" for name, what in table.items()))
        return 0
    if unknown := [name for name in asked.names if name not in table]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(table)}")
    failed = False
    for name in asked.names or table:
        line, sound = show(name)
        print(line, flush=True)
        failed |= not sound
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""All cases, and their counts; `python -m tests.crash.matrix [PART]` prints every violation.

PART is a piece of a row's name, like `| activate`, or `damage`, `lies` or `clocks`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tests.crash.acts import ACTS, Act
from tests.crash.bench import Bench, EnoughError, Start, bench
from tests.crash.cases import (
    died_case,
    fault_case,
    faults,
    followed,
    lasting_case,
    power_case,
    prepared,
)
from tests.crash.damage import run_clocks, run_damage, run_lies
from tests.crash.disk.calls import ALLOCATE, ENOSPC, FULL, READ_ONLY, READS, Call

NEVER = -1  # no call has this number
READ_STATES = 1  # an act's reads fail at the first state of its row
FULL_STATES = 4  # the disk is full at the first states; EIO comes at all, and is handled alike


def run_act(bench: Bench, state: str, name: str) -> None:
    """One act at one state, with every fault at every call."""
    act = ACTS[name]
    start = prepared(bench, state, act)
    row = f"{state} | {name}"
    unharmed = f"{row} | no fault"
    bench.case(unharmed, partial(fault_case, bench, start, act, NEVER, ""), always=True)
    if unharmed in bench.violations:
        return
    calls, killed, lost = followed(bench, start, act)
    for number, kind, found in killed:
        key = f"{row} | {calls[number]} | {kind}"
        bench.case(key, partial(died_case, bench, start, found, act, "kill"))
    for number, call in enumerate(calls):
        if call.kind in READS and state not in act.states[:READ_STATES]:
            continue
        if act.sampled and call.occurrence > 1:
            continue
        for fault in faults(call):
            if fault == ENOSPC and state not in act.states[:FULL_STATES]:
                continue
            key = f"{row} | {call} | {fault}"
            bench.case(key, partial(fault_case, bench, start, act, number, fault))
    if state in act.states[:READ_STATES]:
        _run_lasting(bench, start, act, calls, row)
    seen = set()
    for number, kind, found in lost:
        if (once := (found.image.key, found.answered)) not in seen:
            seen.add(once)
            key = f"{row} | {calls[number]} | {kind}"
            bench.case(key, partial(power_case, bench, found, start.answered, act))


def _run_lasting(bench: Bench, start: Start, act: Act, calls: list[Call], row: str) -> None:
    """The disk is full from each call on that may need room, or takes no writes from each on."""
    for number, call in enumerate(calls):
        for fault, kinds in ((FULL, ALLOCATE), (READ_ONLY, ALLOCATE | {"unlink", "rmdir"})):
            if act.sampled and call.occurrence > 1:
                continue
            if call.kind in kinds - {"fsync"}:
                key = f"{row} | {call} | {fault}"
                case = partial(lasting_case, bench, start, act, number, fault)
                bench.case(key, case, always=True)  # what breaks there breaks at one call or two


PARTS: dict[str, Callable[[Bench], None]] = {
    "damage": run_damage,
    "lies": run_lies,
    "clocks": run_clocks,
    **{
        f"{state} | {name}": partial(run_act, state=state, name=name)
        for name, act in ACTS.items()
        for state in act.states
    },
}


def run(
    only: str = "",
    each: Callable[[str, Bench], None] = lambda *_: None,
    *,
    until_violated: bool = False,
    every: int = 1,
) -> Bench:
    """Run the parts whose names contain `only`, or one of `every` so many of their cases.

    `each` is told of each part at its end.
    """
    with bench() as made, suppress(EnoughError):
        made.until_violated, made.every = until_violated, every
        for name, part in PARTS.items():
            if only in name:
                part(made)
                each(name, made)
    return made


def main(only: str = "") -> int:
    """Print the parts as they end, then the violations."""

    def say(name: str, bench: Bench) -> None:
        seconds = time.process_time() - began
        print(
            f"{name}: {len(bench.keys)} cases, {len(bench.violations)} violations, {seconds:.0f} s"
        )

    began = time.process_time()
    made = run(only, say)
    for key, what in made.violations.items():
        print(f"{key}: {what}")
    for what, count in Counter(made.violations.values()).most_common():
        print(f"{count:5} {what}")
    return int(bool(made.violations))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

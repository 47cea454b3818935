"""The pure part: the trial machine on a model of the disk, cut at every effect and every write.

The stories are those of `tests/property/test_trial_machine.py`. Only those count whose kills and
stops came to pass, and each once.
"""

from __future__ import annotations

from itertools import product

from edgekit.errors import EdgekitError
from tests.property.test_trial_machine import MOMENTS, SIDES, WRITES, tell

Story = tuple[str, str, int, frozenset[int], frozenset[int], tuple[int, ...]]


def _stories() -> list[Story]:
    """One trouble after every cut of a push, and two troubles after a whole one."""
    last = WRITES[-1]
    found: list[Story] = []
    none: frozenset[int] = frozenset()
    for kind, mode in SIDES:
        for cut, first in product(WRITES, MOMENTS):
            one = frozenset({first})
            found += [(kind, mode, cut, one, none, ()), (kind, mode, cut, none, one, ())]
            found.append((kind, mode, last, one, none, (cut,)))
        for first, second in product(MOMENTS, MOMENTS):
            found.append((kind, mode, last, frozenset({first}), frozenset({second}), ()))
            found.append((kind, mode, last, frozenset({first, second}), none, ()))
    return list(dict.fromkeys(found))


def run() -> tuple[list[str], int]:
    """The violations, and the number of stories in which every trouble came to pass."""
    violations, happened = [], 0
    for story in _stories():
        kind, mode, cut, kills, stops, pushes = story
        try:
            device = tell(kind, mode, cut, set(kills), set(stops), list(pushes))
        except (AssertionError, EdgekitError) as error:
            violations.append(f"pure | {story}: {error!r}")
            continue
        happened += not device.kills and not device.stops and not device.pushes
    return violations, happened

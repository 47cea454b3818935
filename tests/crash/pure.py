"""The pure part: the trial machine on a model of the disk, cut at every effect and every write.

The stories are those of `tests/property/test_trial_machine.py`. Only those count whose kills and
stops came to pass, and each once.
"""

from __future__ import annotations

from itertools import product

from edgekit.errors import EdgekitError
from tests.fakes.release_disk import before
from tests.property.test_trial_machine import MOMENTS, SIDES, tell

Story = tuple[str, str, int, frozenset[int], frozenset[int], tuple[int, ...]]


def _stories() -> list[Story]:
    """One trouble after every cut of a push, and two pushes with a kill between them."""
    found: list[Story] = []
    none: frozenset[int] = frozenset()
    for kind, mode in SIDES:
        writes = sum(1 for _ in before(kind).push())
        for cut, first in product(range(writes + 1), MOMENTS):
            one = frozenset({first})
            found += [(kind, mode, cut, one, none, ()), (kind, mode, cut, none, one, ())]
            found.append((kind, mode, writes, one, none, (cut,)))
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

"""Numbers of a schema as llguidance keeps them. Pure.

llguidance 1.9 keeps every number as a double, and reads decimals as serde_json does without
`float_roundtrip`. So 2**53 + 1 became 2**53, and a decimal of 17 digits its neighbour. A constant
of -2**63 ended its process by SIGSEGV.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import ulp

WHOLE = 2**53  # integers are doubles up to here; so are the digits of a decimal that is kept
LARGEST = 2**62  # integers beyond are not kept, and bounds beyond bound nothing
MOST_PLACES = 22  # powers of ten up to this one are doubles
NUDGE = 1e-6  # how far a number stays from a bound that llguidance would let through
BOUNDS = {"minimum": 1, "exclusiveMinimum": 1, "maximum": -1, "exclusiveMaximum": -1}
"""Keywords, with 1 where numbers lie above, and -1 where they lie below."""


def is_kept(number: float) -> bool:
    """Whether a number is the same to llguidance."""
    if isinstance(number, int):
        return abs(number) <= LARGEST and int(float(number)) == number
    _, digits, places = Decimal(repr(number)).as_tuple()  # 2.0 has two digits, as in JSON
    return int("".join(map(str, digits))) <= WHOLE and abs(int(places)) <= MOST_PLACES


def inward(bound: float, up: int, *, exclusive: bool) -> float:
    """Return a bound that llguidance keeps, and that lets nothing through that this one does not.

    Above 2**53 it computes with doubles and writes their 17 digits as it likes, so 15 stay. What
    is beyond `LARGEST` on the side where it matters stays as it is, and is not kept.

    Args:
        bound: its value; finite.
        up: as in `BOUNDS`.
        exclusive: whether the bound itself is no value.
    """
    bound = max(bound, -LARGEST) if up > 0 else min(bound, LARGEST)
    if bound % 1:
        return bound
    whole = int(bound)
    if abs(whole) < WHOLE or abs(whole) > LARGEST:
        return whole
    unit = 10 ** (len(str(abs(whole))) - 15)
    kept: int = -(-whole // unit) * unit if up > 0 else whole // unit * unit
    while min(up * kept, up * int(float(kept))) < up * whole + exclusive:
        kept += up * unit
    return kept


def fractions_in(root: object) -> set[float]:
    """Return the bounds that are not whole, wherever they stand in a schema."""
    found: set[float] = set()
    left = [root]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, Mapping):
            left += one.values()
            bounds = (one.get(key) for key in BOUNDS)
            found |= {each for each in bounds if isinstance(each, float) and each % 1}
    return found


def nudged(bound: float, up: int, fractions: Iterable[float]) -> float:
    """Return an exclusive bound as llguidance keeps it.

    Where the other bound lies in the same unit, farther from zero, llguidance 1.9 lets the whole
    number itself through: 0 above an `exclusiveMinimum` of 0 and below a `maximum` of 0.5. It
    merges schemas, so the other bound may stand anywhere.

    Args:
        bound: its value.
        up: as in `BOUNDS`.
        fractions: bounds that are not whole.
    """
    if bound % 1 or not 0 <= bound * up < WHOLE:
        return bound
    if any(0 < (each - bound) * up < 1 for each in fractions):
        return bound + up * max(NUDGE, 4 * ulp(bound))  # its reader may be an ulp off
    return bound

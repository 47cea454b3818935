"""A long text whose end repeats its beginning: to continue it, a model must look far back.

A list that nobody can guess stands first; then its beginning comes again. A model whose attention
does not reach that far, through its cache and at these positions, cannot predict the repetition.
Pure; the standard library alone.
"""

from typing import Any

ID = "long"
LEAST = 64
"""A text of fewer tokens shows nothing that the short texts do not show."""

PIECE, SINGLES = 128, 64
"""Through the cache it is read in pieces of so many tokens, and at the end in single ones."""

_SKIPPED = 12  # the first tokens: a heading, and perhaps a begin token
_SETTLED = 4  # tokens of the repetition after which it is known what is repeated
_HEAD = "The list of the rooms, with the tenant, the furniture and the number of books.\n"
_NAMES = (
    "Ada", "Bruno", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karin",
    "Lucas", "Maria", "Nora",
)  # fmt: skip
_COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "grey", "purple", "orange",
)  # fmt: skip
_THINGS = (
    "lamp", "chair", "table", "clock", "piano", "kettle", "mirror", "ladder", "bicycle", "radio",
    "carpet", "basket", "hammer", "bottle", "umbrella", "camera",
)  # fmt: skip


def long_text(lines: int) -> str:
    """A list of so many lines, the same each time."""
    state = 5

    def draw(count: int) -> int:
        nonlocal state
        # a linear congruential generator with the constants of C's rand(); its low bits are poor
        state = (state * 1_103_515_245 + 12_345) % 2**31
        return (state >> 16) % count

    def thing() -> str:
        return f"a {_COLOURS[draw(len(_COLOURS))]} {_THINGS[draw(len(_THINGS))]}"

    rows = (
        f"{_NAMES[draw(len(_NAMES))]} has {thing()}, {thing()} and {10 + draw(90)} books.\n"
        for _ in range(lines)
    )
    return _HEAD + "".join(rows)


def long_tokens(tokenizer: Any, most: int) -> tuple[list[int], int] | None:
    """The text in `most` tokens, and the first position that is scored; None for fewer than LEAST.

    The last 5 of 32 tokens are the repetition; each is `most` x 27/32 - 12 tokens behind what it
    repeats: 528 of 640.
    """
    if most < LEAST:
        return None
    ids = list(tokenizer(long_text(most // 8))["input_ids"])
    again = most * 5 // 32
    start = ids[: most - again]
    return start + ids[_SKIPPED : _SKIPPED + again], len(start) + _SETTLED


def pieces(tokens: int) -> list[int]:
    """The lengths of the pieces in which so many tokens are read; small texts have small pieces."""
    piece, singles = min(PIECE, tokens // 4), min(SINGLES, tokens // 4)
    whole, rest = divmod(tokens - singles, piece)
    return [piece] * whole + [rest] * (rest > 0) + [1] * singles

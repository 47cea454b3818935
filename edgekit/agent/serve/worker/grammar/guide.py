"""Follows a grammar through one answer: which tokens may come next, and which must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Allowed = npt.NDArray[np.bool_]


class GrammarError(Exception):
    """A grammar that cannot be compiled, or that grew too complex within an answer."""


class Guide(Protocol):
    """The state of a grammar in one answer."""

    @property
    def opening(self) -> Sequence[int]:
        """The tokens that every answer begins with; they count as taken."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the answer matches and nothing may follow."""
        ...

    def allowed(self) -> Allowed:
        """Return of each token whether it may come next, shape (vocabulary,); at least one may.

        Tokens that end an answer are among them once the answer matches.

        Raises:
            GrammarError: the grammar needs more work here than a token may cost.
        """
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next, and count them as taken.

        Raises:
            GrammarError: as `allowed`.
        """
        ...

    def take(self, token: int) -> bool:
        """Go on with a token if it may come next; return whether it may.

        Raises:
            GrammarError: as `allowed`.
        """
        ...

    def would_take(self, token: int) -> bool:
        """Whether `take` would go on with a token that `allowed` allows; nothing changes.

        Raises:
            GrammarError: as `allowed`.
        """
        ...

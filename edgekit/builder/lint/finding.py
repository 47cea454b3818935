"""One thing the lint has found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

_SHOWN = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    Attributes:
        name: stable, kebab-case.
        severity: `refuse` means that the model must not ship.
        what: it in words.
        where: the file, option, tensors or matrices.
        expected, found: what was asked for, what is there.
    """

    name: str
    severity: Literal["refuse", "warn"]
    what: str
    where: str
    expected: str
    found: str

    @property
    def message(self) -> str:
        """One line for a human."""
        return f"{self.what} ({self.where}: expected {self.expected}, found {self.found})"


def refuse(name: str, what: str, where: str, expected: str, found: str) -> Finding:
    """A finding that keeps the model from shipping."""
    return Finding(name, "refuse", what, where, expected, found)


def warn(name: str, what: str, where: str, expected: str, found: str) -> Finding:
    """A finding that is only said."""
    return Finding(name, "warn", what, where, expected, found)


def listed(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

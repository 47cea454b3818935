"""A finding of the lint. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

_SHOWN = 3


class Finding(msgspec.Struct, frozen=True):
    """One difference between a built model and the request, or one defect.

    Attributes:
        name: stable, kebab-case.
        severity: `refuse` means that the model must not ship.
        what: the difference in words.
        where: the file, option, tensors or matrices.
        expected, found: the required and the actual value.
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
    """A finding that prevents the model from shipping."""
    return Finding(name, "refuse", what, where, expected, found)


def warn(name: str, what: str, where: str, expected: str, found: str) -> Finding:
    """A finding that is only a warning."""
    return Finding(name, "warn", what, where, expected, found)


def listed(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

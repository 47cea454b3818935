"""The two answers to a config.json that the locked builder does not read right. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgekit.errors import UsageError


class Mend(msgspec.Struct, frozen=True):
    """A change to config.json with its reason.

    Attributes:
        patch: JSON Merge Patch (RFC 7386).
        why: reason for the user, in one line.
    """

    patch: dict[str, Any]
    why: str


class Refusal(msgspec.Struct, frozen=True):
    """The reason why a model cannot be built, with the fields of `EdgekitError`."""

    what: str
    why: str
    next_step: str

    @property
    def error(self) -> UsageError:
        """The exception that ends the build."""
        return UsageError(self.what, self.why, self.next_step)


def replacing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Merge Patch that makes a new object of an old one; nothing of the old one is left.

    A patch goes into objects: without nulls, the old one's inner keys would stay beside the new's.
    """
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        inner = old.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            patch[key] = replacing(inner, value)
        else:
            patch[key] = value
    return patch


def rotary(text: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Key and value of the rotary settings; transformers prefers `rope_scaling` to the other."""
    for key in ("rope_scaling", "rope_parameters"):
        if text.get(key):
            return key, text[key]
    return "", {}


def rope_type(rope: dict[str, Any]) -> str:
    """The kind of RoPE scaling; empty where the settings name none."""
    return str(rope.get("rope_type") or rope.get("type") or "")

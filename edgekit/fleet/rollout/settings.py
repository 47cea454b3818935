"""What an operator sets for rollouts: the table [rollout] of fleet.toml, and flags. Pure.

A flag wins over the table. Shares are numbers between 0 and 1, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgekit.errors import UsageError
from edgekit.fleet.rollout.waves import Terms
from edgekit.fleet.rollout.windows.window import parse_window

_DEFAULT = Terms()
_FLAGS = {"lock_wait_seconds": "lock-wait"}  # of settings whose flag has another name
_SOME_ZONE = "UTC"  # stands for the controller's zone where a window is only looked at


class RolloutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of [rollout]; `Terms` says what those mean that both have.

    Attributes:
        shares: of all devices, growing up to 1.0: the waves after the canaries. Empty: one wave for
            a handful of devices, else 0.05, 0.25, 1.0.
        window: when devices may switch that have no window of their own; empty: always.
    """

    parallel: int = _DEFAULT.parallel
    connects: int = _DEFAULT.connects
    soak_seconds: float = _DEFAULT.soak_seconds
    failures: int = _DEFAULT.failures
    failure_share: float = _DEFAULT.failure_share
    shares: list[float] = []
    confirm: bool = _DEFAULT.confirm
    hook_before: list[str] = []
    hook_after: list[str] = []
    hook_seconds: float = _DEFAULT.hook_seconds
    window: str = ""
    late_seconds: float = _DEFAULT.late_seconds
    lock_wait_seconds: float = _DEFAULT.lock_wait_seconds
    quality: bool = _DEFAULT.quality
    quality_seconds: float = _DEFAULT.quality_seconds
    quality_agreement: float = _DEFAULT.quality_agreement
    quality_kl: float = _DEFAULT.quality_kl
    quality_length: float = _DEFAULT.quality_length
    quality_loops: float = _DEFAULT.quality_loops

    def __post_init__(self) -> None:
        terms_of(self)
        check_window(self.window)
        if self.shares:
            growing = all(a < b for a, b in zip([0.0, *self.shares], self.shares, strict=False))
            if not growing or self.shares[-1] != 1:
                raise ValueError("shares grow from above 0 to 1.0, such as [0.05, 0.25, 1.0]")

    def with_flags(self, **flags: Any) -> RolloutSettings:
        """The settings for one command; a flag that is None was not given.

        Raises:
            UsageError: a value is wrong.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            return msgspec.structs.replace(self, **given)
        except ValueError as error:
            told = ", ".join(f"--{_FLAGS.get(name, name.replace('_', '-'))}" for name in given)
            raise UsageError(
                f"{told}: the value is not valid", str(error), "choose another one, or leave it out"
            ) from error


def terms_of(settings: RolloutSettings, *, stage_only: bool = False) -> Terms:
    """The terms of a rollout; raises ValueError for a wrong value."""
    fields = Terms.__struct_fields__
    own = {name: getattr(settings, name) for name in settings.__struct_fields__ if name in fields}
    return Terms(stage_only=stage_only, **own)


def windows_of(
    own: Mapping[str, str], settings: RolloutSettings, zone: str, *, flag: str | None = None
) -> dict[str, str]:
    """When each device may switch, for the plan; a device that always may is left out.

    Args:
        own: each device's own window; empty: it has none.
        settings: the fleet's.
        zone: of windows that name none.
        flag: the window of this command; it wins over all others.

    Raises:
        ValueError: a window cannot be read; also an empty flag, which nobody can have meant.
    """
    found = {}
    for name, window in own.items():
        text = flag if flag is not None else window or settings.window
        if (text or flag is not None) and (parsed := parse_window(text, zone)).spans:
            found[name] = str(parsed)
    return found


def check_window(text: str) -> None:
    """Check a window's text; empty: none is set. Raises ValueError."""
    if text:
        parse_window(text, _SOME_ZONE)

"""The time zones of windows: the controller's own, and whether it knows those that are named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edgekit.errors import UsageError
from edgekit.fleet.rollout.settings import RolloutSettings, windows_of
from edgekit.fleet.rollout.windows.window import parse_window

LOCALTIME = Path("/etc/localtime")
_FOLDER = "/zoneinfo/"
_NEXT = "name the zone in the window, such as `22:00-05:00 Europe/Berlin`"


def device_windows(
    own: Mapping[str, str], settings: RolloutSettings, *, flag: str | None = None
) -> dict[str, str]:
    """When each device may switch, for the plan of a rollout that begins now.

    Args:
        own: each device's own window in fleet.toml; empty: it has none.
        settings: the fleet's.
        flag: `--window` of the command; it wins over all others.

    Raises:
        UsageError: a window cannot be read, or this machine does not know its zone.
    """
    try:
        found = windows_of(own, settings, "", flag=flag)
    except ValueError:  # one names no zone: it means this machine's
        try:
            found = windows_of(own, settings, local_zone(), flag=flag)
        except ValueError as error:
            raise UsageError(
                "a window cannot be read",
                str(error),
                "correct --window, or `window` in fleet.toml",
            ) from error
    check_zones(found)
    return found


def check_zones(windows: Mapping[str, str]) -> None:
    """Check that this machine knows the zones of a plan's windows.

    Raises:
        UsageError: it does not; a plan of another machine can name more.
    """
    for text in sorted(set(windows.values())):
        for span in parse_window(text).spans:
            _check_zone(span.zone, text)


def local_zone(localtime: Path = LOCALTIME) -> str:
    """The IANA name of this machine's time zone: TZ, else where /etc/localtime leads, else UTC.

    Raises:
        UsageError: the zone has no name.
    """
    if told := os.environ.get("TZ", "").removeprefix(":"):
        _check_zone(told, f"TZ={told}")
        return told
    if not localtime.exists():
        return "UTC"
    folder, found, name = os.path.realpath(localtime).rpartition(_FOLDER)
    if not (folder and found):
        raise UsageError(
            "the time zone of this machine has no name", f"{localtime} is no link to one", _NEXT
        )
    return name


def _check_zone(zone: str, where: str) -> None:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"{where}: this machine does not know the time zone {zone}",
            "it is not in its list of time zones (tzdata)",
            "correct the name, or install tzdata (`apt-get install tzdata`)",
        ) from None

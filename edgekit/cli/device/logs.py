"""`logs`: the log of a device, its end or as it grows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.device.fleet import DeviceArgument
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet import drive
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.logs import LogPart, read_log

WAIT_SECONDS = 20
AGAIN_SECONDS = 3.0
MOST_LINES = 100_000
MOST_SECONDS = 999_999_999  # a door takes nine digits, and no log is 31 years old
_AGO = re.compile(r"(\d{1,6})\s*([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs(
    device: DeviceArgument,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=MOST_LINES, help="How many of the end.")
    ] = 100,
    since: Annotated[
        str,
        typer.Option(
            help="Only what is younger: 90s, 10m, 2h, 3d, or a time like 2026-11-30T09:00."
        ),
    ] = "",
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    journal: Annotated[
        bool,
        typer.Option("--journal", help="What systemd says of the agent's unit there, instead."),
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the log of a device: of its supervisor, its agent and its model's process.

    Its agent need not run. Control characters are shown as a replacement character. A log that is
    rotated is followed on; a connection that is lost is made anew.

    \b
    Example:  edgekit logs pi-1
              edgekit logs pi-1 --follow --since 10m
              edgekit logs pi-1 --journal
    """
    if follow and as_json:
        raise UsageError("--json prints one object, and --follow has no end", "", "leave one out")
    ago = seconds_ago(since, time.time()) if since else 0
    fleet = project.find(project_folder).fleet()
    if device not in fleet.devices:
        fleet.select([device])
        raise UsageError(f"{device} is a group", next_step="name one device")
    try:
        for part in _parts(fleet, device, lines, ago, journal=journal, follow=follow):
            if as_json:
                render.print_json({"device": device, "lines": part.lines})
                return
            if part.lost:
                render.warn("the log was rotated meanwhile, and lines are missing here")
            for line in part.lines:
                render.say(line)
            if not (part.lines or follow):
                render.complain(f"{device} has no such line in its log")
    except KeyboardInterrupt:
        if not follow:
            raise
        render.complain(f"the log of {device} is not followed any more")


def _parts(
    fleet: Fleet, device: str, lines: int, ago: int, *, journal: bool, follow: bool
) -> Iterator[LogPart]:
    """The end of the log, and then what comes, over as many connections as it takes."""
    cursor = ""
    while True:
        try:
            with closing(drive.open_device(fleet, device)) as driver:
                while True:
                    if cursor:
                        part = read_log(
                            driver, after=cursor, wait_seconds=WAIT_SECONDS, journal=journal
                        )
                    else:
                        with render.working(f"{device}: log"):
                            part = read_log(driver, lines=lines, since_seconds=ago, journal=journal)
                    yield part
                    if not follow:
                        return
                    cursor = part.cursor
                    if not cursor:  # a journal without a line has none
                        time.sleep(AGAIN_SECONDS)
        except EdgekitError as error:
            if not (error.retryable and cursor):
                raise
            render.complain(f"{error.what}; trying again")
            time.sleep(AGAIN_SECONDS)


def seconds_ago(text: str, now: float) -> int:
    """How long ago a time is that a user wrote, in whole seconds, at least 1.

    Args:
        text: `90s`, `10m`, `2h` or `3d`, or a time as in ISO 8601, local without a zone.
        now: in Unix seconds, by this machine's clock; the device counts back by its own.

    Raises:
        UsageError: it is neither, or lies ahead.
    """
    if found := _AGO.match(text):
        return min(max(1, int(found[1]) * _SECONDS[found[2]]), MOST_SECONDS)
    try:
        ago = now - datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise UsageError(
            f"--since {text!r} is no time", str(error), "write 10m, 2h or 2026-11-30T09:00"
        ) from None
    if ago <= 0:
        raise UsageError(f"--since {text!r} lies ahead", "", "write 10m, 2h or a time of before")
    return max(1, min(int(ago), MOST_SECONDS))

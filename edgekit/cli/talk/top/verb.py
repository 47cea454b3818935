"""`top`."""

from __future__ import annotations

import math
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.interrupts import told
from edgekit.cli.options import DevicesArgument, ProjectOption, check_seconds
from edgekit.cli.talk.ask import BrokerOption, broker_of
from edgekit.cli.talk.top.look import FleetLook, unconnected
from edgekit.cli.talk.top.rows import SORTS, summary
from edgekit.cli.talk.top.table import Segment, TopView, table
from edgekit.cli.talk.watching import DeviceWatch
from edgekit.errors import UsageError
from edgekit.fleet.inventory import load

MIN_SECONDS = 0.1


def top(
    device: DevicesArgument = None,
    sort: Annotated[str, typer.Option(help=f"One of {', '.join(SORTS)}.")] = "device",
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The other way round.")] = False,
    once: Annotated[bool, typer.Option("--once", "-n", help="Show it once and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object of this moment, and end.")
    ] = False,
) -> None:
    """Watch the fleet: state, queue, tokens/s, temperature, memory and release of each device.

    On a terminal q ends it, < and > sort by another column, r turns the order round, and the arrow
    keys move. Elsewhere it prints a line for each device, once per interval.

    \b
    Example:  edgekit top
              edgekit top site=hall-3 '!pi-7' --sort temp
              edgekit top --json
    """
    if sort not in SORTS:
        raise UsageError(
            f"--sort {sort} is not known", next_step=f"choose one of {', '.join(SORTS)}"
        )
    if not math.isfinite(interval):
        raise UsageError(f"--interval {interval:g} is no time", next_step="write seconds, as 2.5")
    if interval < MIN_SECONDS:
        raise UsageError(
            f"--interval {interval:g} is too short", next_step=f"write {MIN_SECONDS:g} or more"
        )
    check_seconds("--interval", interval, MIN_SECONDS)
    here = project.find_or_bare(project_folder, broker=broker)
    file = here.folder / "fleet.toml"
    fleet = load(file) if file.is_file() else None
    view = TopView(sort, reverse)
    at = broker_of(here, broker)
    with (
        told({signal.SIGTERM: _end, signal.SIGHUP: _end}),
        DeviceWatch(at, here.requester) as watch,
    ):
        with render.working("asking the broker"):
            if not watch.settle() and (once or as_json):
                render.warn(f"{at} is slow, and still sends what it keeps: devices are missing")
        look = FleetLook(watch, fleet, device or [])
        look.names()  # a word that names nothing is refused now
        if as_json:
            now = time.time()
            render.print_json({"at": int(now), "devices": look.rows(now, view)})
        elif sys.stdout.isatty():
            from edgekit.cli.talk.top import live  # noqa: PLC0415  rich, for a terminal alone

            if once:
                live.once(look, view)
                return
            with suppress(KeyboardInterrupt):  # to end the watching is no failure
                live.live(look, view, interval, str(at))
        elif once:
            _print_once(look, view)
        else:
            with suppress(KeyboardInterrupt):
                _lines(look, view, interval, str(at))


def _print_once(look: FleetLook, view: TopView) -> None:
    now = time.time()
    rows = look.rows(now, view)
    for line in table(rows, now, None, render.one_line):
        render.say(_plain(line))
    render.say(render.one_line(summary(rows)))


def _lines(look: FleetLook, view: TopView, interval: float, broker: str) -> None:
    """A line for each device, once per interval; the head comes first, and once.

    Without a connection there are none: whoever reads them would take what is old for new.
    """
    headed, lost = False, ""
    while True:
        before, lost = lost, unconnected(look.watch.disconnected_since, broker)
        if lost != before:
            render.complain(f"{lost}: nothing is shown until it is back" if lost else "it is back")
        if lost:
            time.sleep(interval)
            continue
        now = time.time()
        stamp = datetime.fromtimestamp(now).astimezone().isoformat("T", "seconds")
        head, *lines = table(look.rows(now, view), now, None, render.one_line)
        if not headed:
            headed = True
            render.say(f"{'time':<{len(stamp)}}  {_plain(head)}")
        for line in lines:
            render.say(f"{stamp}  {_plain(line)}")
        time.sleep(interval)


def _plain(line: list[Segment]) -> str:
    return "".join(text for text, _ in line).rstrip()


def _end() -> None:
    sys.exit(130)

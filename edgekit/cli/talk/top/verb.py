"""`top`."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from edgekit.cli import project, render
from edgekit.cli.interrupts import told
from edgekit.cli.options import DevicesArgument, ProjectOption
from edgekit.cli.talk.ask import BrokerOption, broker_of
from edgekit.cli.talk.top.keys import keyboard
from edgekit.cli.talk.top.rows import SORTS, TopRow, chosen, in_order, row, summary
from edgekit.cli.talk.top.table import Segment, TopView, page, pressed, screen, table
from edgekit.cli.talk.watching import FleetWatch
from edgekit.errors import UsageError
from edgekit.fleet.inventory import Fleet, load

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
        raise UsageError(f"--sort {sort} is not known", f"it is one of {', '.join(SORTS)}")
    if not interval >= MIN_SECONDS:
        raise UsageError(f"--interval {interval:g} is too short", f"at least {MIN_SECONDS:g} s")
    here = project.find_or_bare(project_folder, broker=broker)
    file = here.folder / "fleet.toml"
    fleet = load(file) if file.is_file() else None
    view = TopView(sort, reverse)
    at = broker_of(here, broker)
    with (
        told({signal.SIGTERM: _end, signal.SIGHUP: _end}),
        FleetWatch(at, here.requester) as watch,
    ):
        with render.working("asking the broker"):
            watch.settle()
        look = _Look(watch, fleet, device or [])
        look.names()  # a word that names nothing is refused now
        if as_json:
            rows = in_order(look.rows(time.time()), sort, reverse=reverse)
            render.print_json({"at": int(time.time()), "devices": rows})
        elif once:
            _print_once(look, view)
        else:
            with suppress(KeyboardInterrupt):  # to end the watching is no failure
                if render.out.is_terminal:
                    _live(look, view, interval, str(at))
                else:
                    _lines(look, view, interval)


class _Look:
    """The rows of the devices that are asked for, at any moment."""

    def __init__(self, watch: FleetWatch, fleet: Fleet | None, words: list[str]) -> None:
        self.watch = watch
        self._devices = fleet.devices if fleet else {}
        self._groups = fleet.groups if fleet else {}
        self._words = words
        self._began = time.time()
        self._names: list[str] = []
        self._of: frozenset[str] | None = None  # the known devices that `_names` was made of

    def names(self) -> list[str]:
        """The devices that are asked for; raises UsageError where a word names none."""
        known = self.watch.known
        if frozenset(known) != self._of:
            self._names = chosen(self._words, self._devices, self._groups, known)
            self._of = frozenset(known)
        return self._names

    def rows(self, now: float) -> list[TopRow]:
        """A row for each."""
        with suppress(UsageError):  # all that a word meant were forgotten: they are shown as unseen
            self.names()
        seen = self.watch.seen
        return [row(name, seen.get(name), now, self._began) for name in self._names]


def _print_once(look: _Look, view: TopView) -> None:
    now = time.time()
    rows = in_order(look.rows(now), view.sort, reverse=view.reverse)
    width = render.out.width if render.out.is_terminal else None
    for line in table(rows, now, width, render.harmless):
        render.out.print(_text(line))
    render.out.print(summary(rows), markup=False)


def _lines(look: _Look, view: TopView, interval: float) -> None:
    """A line for each device, once per interval; the head comes first, and once."""
    headed = False
    while True:
        now = time.time()
        stamp = datetime.fromtimestamp(now).astimezone().isoformat("T", "seconds")
        rows = in_order(look.rows(now), view.sort, reverse=view.reverse)
        head, *lines = table(rows, now, None, render.harmless)
        if not headed:
            headed = True
            render.out.print("time".ljust(len(stamp)), _plain(head), sep="  ", markup=False)
        for line in lines:
            render.out.print(f"{stamp}  {_plain(line)}", markup=False)
        time.sleep(interval)


def _live(look: _Look, view: TopView, interval: float, broker: str) -> None:
    live = Live(console=render.out, screen=True, auto_refresh=False)
    with keyboard() as wait, live:
        while True:
            now = time.time()
            rows = in_order(look.rows(now), view.sort, reverse=view.reverse)
            size = render.out.size
            view = pressed(view, "", len(rows), page(size.height)) or view
            above = _unconnected(look.watch.disconnected_since, broker) + summary(rows)
            lines = screen(rows, above, view, now, (size.width, size.height), render.harmless)
            live.update(Group(*map(_text, lines)), refresh=True)
            until = time.monotonic() + interval
            while (left := until - time.monotonic()) > 0:
                before = view
                for key in wait(left):
                    after = pressed(view, key, len(rows), page(size.height))
                    if after is None:
                        return
                    view = after
                if view != before or render.out.size != size:
                    break


def _unconnected(since: float, broker: str) -> str:
    if not since:
        return ""
    at = time.strftime("%H:%M:%S", time.localtime(since))
    return f"no connection to {broker} since {at}, as of then: "


def _text(line: list[Segment]) -> Text:
    return Text.assemble(*line, no_wrap=True, overflow="ellipsis", end="\n")


def _plain(line: list[Segment]) -> str:
    return "".join(text for text, _ in line).rstrip()


def _end() -> None:
    sys.exit(130)

"""Draws the table on a terminal: once, or again and again until somebody ends it."""

from __future__ import annotations

import time

from rich.console import Group
from rich.live import Live
from rich.text import Text

from edgekit.cli import render
from edgekit.cli.talk.top.keys import keyboard
from edgekit.cli.talk.top.look import FleetLook, unconnected
from edgekit.cli.talk.top.rows import summary
from edgekit.cli.talk.top.table import Segment, TopView, page, pressed, screen, table


def once(look: FleetLook, view: TopView) -> None:
    """The table as it is now, and the sum."""
    now = time.time()
    rows = look.rows(now, view)
    for line in table(rows, now, render.out.width, render.one_line):
        render.out.print(_text(line))
    render.say(render.one_line(summary(rows)))


def live(look: FleetLook, view: TopView, interval: float, broker: str) -> None:
    """The table on the whole screen, until q is pressed; as before after that.

    Args:
        interval: seconds between two looks.
        broker: its address, for people.
    """
    drawn = Live(console=render.out, screen=True, auto_refresh=False)
    with keyboard() as wait, drawn:
        while True:
            now = time.time()
            rows = look.rows(now, view)
            size = render.out.size
            view = pressed(view, "", len(rows), page(size.height)) or view
            lost = unconnected(look.watch.disconnected_since, broker)
            above = (f"{lost}, as of then: " if lost else "") + summary(rows)
            lines = screen(rows, above, view, now, (size.width, size.height), render.one_line)
            drawn.update(Group(*map(_text, lines)), refresh=True)
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


def _text(line: list[Segment]) -> Text:
    return Text.assemble(*line, no_wrap=True, overflow="ellipsis", end="\n")

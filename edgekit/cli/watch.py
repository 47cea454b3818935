"""Shows a long step's progress: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from edgekit.builder.tools.progress import Progress, ProgressCallback

PLAIN_EVERY_SECONDS = 10.0
"""How often a step says that it goes on where there is no terminal to draw on."""


@contextmanager
def shown(console: Console) -> Iterator[ProgressCallback]:
    """Shows progress: a moving line on a terminal, now and then a plain line elsewhere."""
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[step]:<10}"),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=48),
        ),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, step="")

        def report(progress: Progress) -> None:
            total = None if progress.fraction is None else 1.0
            bars.update(
                task,
                step=progress.step,
                description=progress.detail,
                total=total,
                completed=progress.fraction or 0.0,
            )

        yield report


def _plain(console: Console) -> ProgressCallback:
    step, printed, started = "", 0.0, time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal step, printed
        now = time.monotonic()
        if progress.step == step and now - printed < PLAIN_EVERY_SECONDS:
            return
        step, printed = progress.step, now
        share = "" if progress.fraction is None else f" {progress.fraction:.0%}"
        line = f"{now - started:6.0f} s  {progress.step}: {progress.detail}{share}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return report

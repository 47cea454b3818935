"""Output: results on stdout, progress and errors on stderr, JSON on request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    out.print(json.dumps(msgspec.to_builtins(value, enc_hook=str)), markup=False)


def say(text: str) -> None:
    """A line on stdout, as it is."""
    out.print(text, markup=False)


def warn(text: str) -> None:
    """A line on stderr, if there is something to say."""
    if text:
        err.print(f"warning: {text}", markup=False)


def size(count: float) -> str:
    """Bytes for people, powers of ten."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner for work of unknown length; call the result with what is being done."""
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(text, total=None)
        yield lambda step: progress.update(task, description=step)


@contextmanager
def transferring(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar; call the result with step, bytes done and bytes of all."""
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
        TransferSpeedColumn(), TimeElapsedColumn(), console=err, transient=True,
        disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(name, total=None)

        def update(step: str, done: int, total: int) -> None:
            progress.update(
                task, description=f"{name}: {step}", completed=done, total=total or None
            )

        yield update

"""Output: results on stdout, progress and errors on stderr, JSON on request.

rich is imported where something is drawn: a bar on a terminal, a table. Its import takes as long as
all else of a short command.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    out: Console
    err: Console

PIPED_COLUMNS = 100
WIDE_COLUMNS = 1000
_DRAWS = ("FORCE_COLOR", "TTY_COMPATIBLE")  # with these rich may draw where no terminal is


_WRITES = threading.Lock()


def __getattr__(name: str) -> Console:
    """The consoles `out` and `err`, made when one is asked for."""
    if name not in ("out", "err"):
        raise AttributeError(name)
    from rich.console import Console  # noqa: PLC0415  see above

    made = Console(stderr=name == "err", highlight=False, soft_wrap=True, emoji=False)
    globals()[name] = made
    return made


def _console(name: str) -> Console:
    return globals().get(name) or __getattr__(name)


def _draws() -> bool:
    """Whether progress is drawn."""
    if sys.stderr is None:  # the caller has closed it
        return False
    able = sys.stderr.isatty() or any(name in os.environ for name in _DRAWS)
    return able and _console("err").is_terminal


def builtins(value: Any) -> Any:
    """A value as JSON has it."""
    return msgspec.to_builtins(value, enc_hook=str)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    _line("out", json.dumps(builtins(value)))


def _line(name: str, text: str) -> None:
    """A line on stdout or stderr; a console that is drawing puts it above what it draws."""
    console = globals().get(name)
    if console is None:
        stream = sys.stdout if name == "out" else sys.stderr
        if stream is None:  # the caller has closed it
            return
        # bars on a terminal take all that is printed, and put it on stderr
        stream = getattr(stream, "rich_proxied_file", stream)
        with _WRITES:
            stream.write(text + "\n")  # at once: threads print, too
            stream.flush()
    else:
        console.print(text, markup=False, emoji=False)


# Of what a device or a model's files say: such characters would move the cursor of a terminal,
# give its window a name, or hide a line. A tab and the end of a line are harmless.
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
# Of a line also what turns the rest of it round: the next cell would read as something else
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_IN_LINE = {**_CONTROL, **dict.fromkeys(map(ord, f"\t\n\u2028\u2029{_TURNS}"), "\ufffd")}


def harmless(text: str) -> str:
    """The text with a replacement character for each one that would control the terminal."""
    return text.translate(_CONTROL)


def one_line(text: str) -> str:
    """The same for a cell or a line of a list: what it says makes no further line, nor a cell."""
    return text.translate(_IN_LINE)


def say(text: str) -> None:
    """A line on stdout, as it is but for control characters."""
    _line("out", harmless(text))


def stream(text: str) -> None:
    """Write a piece of an answer to stdout: harmless on a terminal, as it is elsewhere.

    What the encoding of stdout lacks becomes a question mark.
    """
    if sys.stdout is None:  # the caller has closed it
        return
    if sys.stdout.isatty():
        text = harmless(text)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def complain(text: object) -> None:
    """A line on stderr, likewise."""
    _line("err", harmless(str(text)))


def warn(text: str) -> None:
    """A line on stderr, if there is something to say."""
    if text:
        complain(f"warning: {text}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], wide: bool = False) -> None:
    """A table on stdout, as wide as the terminal.

    A pipe gets `PIPED_COLUMNS`; with `wide` no line is folded, wherever it goes.
    """
    from rich.console import Console  # noqa: PLC0415  see above
    from rich.table import Table  # noqa: PLC0415  see above
    from rich.text import Text  # noqa: PLC0415  see above

    drawn = Table(*heads, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(one_line(cell), overflow="fold", no_wrap=wide) for cell in row))
    width = None if _console("out").is_terminal else PIPED_COLUMNS
    Console(highlight=False, width=WIDE_COLUMNS if wide else width).print(drawn, soft_wrap=False)


def named(next_step: str, device: str, reference: str) -> str:
    """A device's next step with the names that only the controller knows."""
    own = next_step.replace("NAME:VERSION", reference)
    for verb in ("rollback", "enroll"):
        own = own.replace(f"`edgekit {verb}`", f"`edgekit {verb} {device}`")
    return own


def size(count: float) -> str:
    """Bytes for people, powers of ten."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


@contextmanager
def _bars(*columns: Any) -> Iterator[Progress]:
    from rich.live import Live  # noqa: PLC0415  see above
    from rich.progress import Progress  # noqa: PLC0415  see above

    progress = Progress(*columns, console=_console("err"), transient=True)

    def start() -> None:
        # one that was stopped has the height that it drew last, and would erase that much again
        progress.live = Live(
            console=progress.console, transient=True, get_renderable=progress.get_renderable
        )
        progress.live.start(refresh=True)

    with terminal.drawing(terminal.TerminalDrawing(start, progress.stop)):
        yield progress


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner for work of unknown length; call the result with what is being done."""
    if not _draws():
        yield lambda _: None
        return
    from rich import progress as rich  # noqa: PLC0415  see above

    with _bars(
        rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.TimeElapsedColumn()
    ) as progress:
        task = progress.add_task(text, total=None)
        yield lambda step: progress.update(task, description=step)


class Transfers:
    """Progress bars, one for each device at work; several threads may call it."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress  # None: nothing is drawn
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, step: str, done: int, total: int) -> None:
        """Show a device's step, bytes done and bytes of all (0: not known)."""
        if self._progress is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None)
        self._progress.update(
            self._tasks[name], description=f"{name}: {step}", completed=done, total=total or None
        )

    def remove(self, name: str) -> None:
        """End a device's bar."""
        task = self._tasks.pop(name, None)
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)

    def say(self, text: str) -> None:
        """A line on stderr, above the bars, without control characters."""
        complain(text)


@contextmanager
def transfers() -> Iterator[Transfers]:
    """Progress bars for devices."""
    if not _draws():
        yield Transfers(None)
        return
    from rich import progress as rich  # noqa: PLC0415  see above

    with _bars(
        rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.BarColumn(),
        rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeElapsedColumn(),
    ) as progress:  # fmt: skip
        yield Transfers(progress)


@contextmanager
def transferring(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """One bar; call the result with step, bytes done and bytes of all."""
    with transfers() as bars:
        yield lambda step, done, total: bars.update(name, step, done, total)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for many devices at once; call the result with how many are done, of how many."""
    if not _draws():
        yield lambda *_: None
        return
    from rich import progress as rich  # noqa: PLC0415  see above

    with _bars(
        rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.BarColumn(),
        rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)

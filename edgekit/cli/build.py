"""`edgekit build`: parse, call `edgekit.builder.run`, render."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from edgekit.builder.progress import Progress, Report
from edgekit.builder.run import BuildRequest, BuildResult
from edgekit.builder.run import build as run_build
from edgekit.errors import UsageError

PLAIN_EVERY_SECONDS = 10.0
"""How often a step says that it goes on where there is no terminal to draw on."""


def build(
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", help="Hugging Face folder, .gguf file, or ORG/NAME on the hub."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    precision: Annotated[
        str, typer.Option("-p", "--precision", help="int4, int8, fp16 or fp32.")
    ] = "int4",
    provider: Annotated[
        str, typer.Option("-e", "--execution-provider", help="cpu, cuda or dml.")
    ] = "cpu",
    cache: Annotated[
        Path | None,
        typer.Option("-c", "--cache-dir", help="Folder for downloads from the hub."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of ORG/NAME.")] = None,
    extra_options: Annotated[
        list[str] | None,
        typer.Option(
            "-x", "--extra-options", metavar="KEY=VALUE", help="The builder's own; repeatable."
        ),
    ] = None,
    host: Annotated[
        bool, typer.Option("--host", help="Build on this machine, without a container.")
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Make an ONNX model folder for devices from a language model.

    The letters are those of the onnxruntime-genai model builder.

    Building the same thing again finds it done. A failed build leaves nothing.

    \b
    Example:
      edgekit build --host -m microsoft/Phi-3.5-mini-instruct -o phi -x block_size=32
    """
    if not host:
        raise UsageError(
            "building in a container has not arrived yet",
            next_step="add --host to build on this machine with the same locked tools",
        )
    request = BuildRequest(
        model=model,
        out=out,
        precision=precision,
        provider=provider,
        options=tuple(extra_options or ()),
        revision=revision,
        hub_cache=cache,
    )
    with _terminated_like_interrupted(), shown(Console(stderr=True)) as report:
        result = run_build(request, report)
    sys.stdout.write(_json(result) if json_output else _text(result))


@contextmanager
def shown(console: Console) -> Iterator[Report]:
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


def _plain(console: Console) -> Report:
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


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a build the way Ctrl-C does, so that it too leaves nothing behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _text(result: BuildResult) -> str:
    lines = [f"{result.out}  build {result.build_id[:12]}  {result.total_bytes / 1e6:.1f} MB"]
    if result.up_to_date:
        lines.append("up to date: the same build is there already, every byte checked")
    else:
        memory = result.peak_rss_bytes / 2**30
        lines.append(
            f"built in {result.seconds:.1f} s "
            f"(the model builder: {result.builder_seconds:.1f} s, {memory:.2f} GiB at its peak)"
        )
    lines.extend(f"note: {note}" for note in result.notes)
    return "\n".join(lines) + "\n"


def _json(result: BuildResult) -> str:
    encoded = msgspec.json.encode(result, enc_hook=str)
    return encoded.decode() + "\n"

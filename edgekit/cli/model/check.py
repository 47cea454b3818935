"""`edgekit check`: parse, call `edgekit.builder.check`, render."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekit.builder.check import CheckRequest, CheckResult, GateCheck, refuse_failed
from edgekit.builder.check import check as run_check
from edgekit.builder.gate.verdict import find_thresholds
from edgekit.builder.tools.container import ContainerToolchain
from edgekit.builder.tools.host import HostToolchain
from edgekit.cli import render
from edgekit.cli.interrupts import ended_as_by_ctrl_c
from edgekit.cli.model.buildfile import parse_thresholds
from edgekit.cli.model.plan import gate_took
from edgekit.cli.options import JsonOption
from edgekit.cli.watch import shown
from edgekit.errors import UsageError


def check(
    folder: Annotated[Path, typer.Argument(help="A folder with genai_config.json.")],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help="Its source: Hugging Face folder, .gguf file, or ORG/NAME. Also runs the gate.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of ORG/NAME.")] = None,
    cache: Annotated[
        Path | None, typer.Option("-c", "--cache-dir", help="Folder for downloads from the hub.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of the LoRA adapter that was merged in.")
    ] = None,
    gate: Annotated[str, typer.Option(help="Profile of thresholds: strict or small.")] = "strict",
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="Change one threshold; repeatable."),
    ] = None,
    host: Annotated[
        bool, typer.Option("--host", help="Check on this machine, without a container.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a model folder that is there already, built elsewhere or edited.

    The lint reads the folder back. With -m the gate also compares the model with its source, as a
    build does; that takes about as long as the gate of a build. Nothing is written to the folder,
    and no project is needed.

    The exit code is 0 when the model passed, 4 when it did not, 2 when the folder is no model
    folder or -m is not its source.

    \b
    Examples:
      edgekit check --host phi
      edgekit check --host phi -m microsoft/Phi-3.5-mini-instruct
      edgekit check phi -m ./Phi-3.5-mini-instruct --json
    """
    if model is None and (revision or cache or adapter or threshold):
        raise UsageError(
            "--revision, --cache-dir, --adapter and --threshold go with the source",
            next_step="name it with -m",
        )
    request = CheckRequest(
        folder=folder,
        model=model,
        revision=revision,
        hub_cache=cache,
        adapter=adapter.expanduser().resolve() if adapter else None,
        thresholds=find_thresholds(gate, parse_thresholds(threshold or [])),
    )
    toolchain = HostToolchain() if host else ContainerToolchain()
    with ended_as_by_ctrl_c(signal.SIGTERM), shown(render.err) as report:
        result = run_check(request, report, toolchain)
    if as_json:
        # a broken model's figures may be no numbers, for which JSON has null
        render.print_json(msgspec.json.decode(msgspec.json.encode(result, enc_hook=str)))
    else:
        render.say("\n".join(_lines(result)))
    refuse_failed(result)


def _lines(result: CheckResult) -> Iterator[str]:
    verdict = "passed" if result.passed else "did NOT pass"
    yield f"{result.folder}  {verdict}  in {result.seconds:.1f} s"
    yield from (f"{f.severity}  {f.name}: {f.message}" for f in result.findings)
    if result.gate:
        yield from _gate(result.gate)
    yield from (f"note: {note}" for note in result.notes)


def _gate(gate: GateCheck) -> Iterator[str]:
    yield from (f"refuse  {f.name}: {f.message}" for f in gate.verdict.findings)
    yield from (f"warn  {f.name}: {f.message}" for f in gate.verdict.warnings)
    if gate.metrics.loads:
        yield (
            f"gate {gate.profile}: mean KL {gate.metrics.kl_mean:.4f}, "
            f"same best token {gate.metrics.top1:.1%}, "
            f"{gate.metrics.tokens_per_second:.0f} tokens/s"
        )
    yield gate_took(gate.time)

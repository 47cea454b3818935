"""`edgekit build`: parse, call `edgekit.builder`, render."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.builder.plan.gather import plan_build
from edgekit.builder.request.options import parse_options
from edgekit.builder.run import BuildResult
from edgekit.builder.run import build as run_build
from edgekit.builder.spec import DEFAULT_CONTEXT
from edgekit.builder.tools.container import ContainerToolchain
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.job import ToolchainSource
from edgekit.builder.verify import VerifyResult, verify
from edgekit.cli import render
from edgekit.cli.interrupts import ended_as_by_ctrl_c
from edgekit.cli.model import buildfile
from edgekit.cli.model.buildfile import BuildFile
from edgekit.cli.model.plan import gate_took, plan_text
from edgekit.cli.options import JsonOption
from edgekit.cli.watch import shown
from edgekit.errors import UsageError


def build(
    file: Annotated[
        Path | None, typer.Argument(help="A build.toml, which holds values for these flags.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", help="Hugging Face folder, .gguf file, or ORG/NAME on the hub."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to make.")] = None,
    precision: Annotated[
        str | None, typer.Option("-p", "--precision", help="int4 (default), int8, fp16 or fp32.")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("-e", "--execution-provider", help="cpu (default), cuda, dml or webgpu."),
    ] = None,
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
    recipe: Annotated[
        str | None,
        typer.Option(help="A way to quantise by name, or auto: the smallest that passes the gate."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="With auto: the best that fits, like 2.5GB."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Cap for the default length, in tokens; default {DEFAULT_CONTEXT}."
        ),
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="Profile of thresholds: strict (default) or small.")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="Change one threshold; repeatable."),
    ] = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Do not test the model; it is marked as such.")
    ] = False,
    path: Annotated[
        str, typer.Option(help="Way through the builder: auto, low-memory or stock; equal bytes.")
    ] = "auto",
    host: Annotated[
        bool | None,
        typer.Option("--host/--no-host", help="Build on this machine, without a container."),
    ] = None,
    trust_remote_code: Annotated[
        bool | None,
        typer.Option(
            "--trust-remote-code/--no-trust-remote-code",
            help="Run code out of the model's repository.",
        ),
    ] = None,
    vision_precision: Annotated[
        str | None,
        typer.Option(
            help="For a model that takes pictures: int8 (default beside a quantised text) or fp32."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what the build needs and makes.")
    ] = False,
    verify_folder: Annotated[
        Path | None,
        typer.Option("--verify", metavar="MODEL_DIR", help="Repeat a build and compare."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an ONNX model folder for devices from a language model.

    The short flags are those of the onnxruntime-genai model builder. It runs in a container without
    network (podman or docker), or with --host on this machine with the same locked tools; both
    give the same bytes. A model that differs from the request is not written, and neither is a
    model that answers worse than its source by more than the gate allows.

    Building the same model again changes nothing. A failed build leaves no files.

    \b
    Examples:
      edgekit build -m microsoft/Phi-3.5-mini-instruct --plan
      edgekit build -m microsoft/Phi-3.5-mini-instruct -o phi --recipe k-quant-mixed
      edgekit build --host -m microsoft/Phi-3.5-mini-instruct -o phi -x block_size=64
      edgekit build -m microsoft/Phi-3.5-vision-instruct -o eye -p int4 --vision-precision int8
      edgekit build --verify phi
    """
    written = buildfile.load(file)
    options = written.pairs_with(extra_options or [])
    said = written.merged(
        BuildFile(
            model=model,
            output=str(out) if out else None,
            precision=precision,
            execution_provider=provider,
            cache_dir=str(cache) if cache else None,
            revision=revision,
            recipe=recipe,
            budget=budget,
            context=context,
            gate=gate,
            host=host,
            trust_remote_code=trust_remote_code,
            vision_precision=vision_precision,
        )
    )
    toolchain = _toolchain(bool(said.host))
    if verify_folder is not None:
        with ended_as_by_ctrl_c(signal.SIGTERM), shown(render.err) as report:
            verified = verify(
                verify_folder, toolchain, report,
                model=said.model, hub_cache=said.hub_cache, options=parse_options(options),
                route=path,
            )  # fmt: skip
        _show(verified, _verified_text(verify_folder, verified), as_json)
        return
    request = said.request(options, threshold or [], path, gated=not no_gate)
    if plan:
        with ended_as_by_ctrl_c(signal.SIGTERM), shown(render.err) as report:
            planned = plan_build(request, report)
        _show(planned, plan_text(planned), as_json)
        if not planned.supported:
            raise typer.Exit(UsageError.exit_code)
        return
    if not said.output:
        raise UsageError("no output folder is named", next_step="name one with -o")
    with ended_as_by_ctrl_c(signal.SIGTERM), shown(render.err) as report:
        result = run_build(request, report, toolchain)
    _show(result, _text(result), as_json)


def _toolchain(host: bool) -> ToolchainSource:
    return HostToolchain() if host else ContainerToolchain()


def _show(value: Any, text: str, as_json: bool) -> None:
    if as_json:
        render.print_json(value)
    else:
        render.say(text)


def _text(result: BuildResult) -> str:
    lines = [f"{result.out}  build {result.build_id[:12]}  {render.size(result.total_bytes)}"]
    if result.up_to_date:
        lines.append("up to date: the same build is there already, every byte checked")
    else:
        memory = result.peak_rss_bytes / 2**30
        lines.append(
            f"built in {result.seconds:.1f} s "
            f"(the model builder: {result.builder_seconds:.1f} s, {memory:.2f} GiB at its peak)"
        )
    if result.gate_time:
        lines.append(gate_took(result.gate_time))
    lines.extend(f"note: {note}" for note in result.notes)
    return "\n".join(lines)


def _verified_text(folder: Path, verified: VerifyResult) -> str:
    return (
        f"{folder}  build {verified.build_id[:12]}  equal in {len(verified.files)} files\n"
        f"first built {verified.first_isolation}/{verified.first_route}, "
        f"now {verified.isolation}/{verified.route}"
    )

"""`pack` and `inspect`."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekit.bundle.docs import Provenance, read_docs, read_provenance
from edgekit.bundle.folder import UNGATED
from edgekit.bundle.golden import SOAK_SECONDS, read_golden
from edgekit.bundle.layers import parse_runtime
from edgekit.bundle.pack import pack as pack_bundle
from edgekit.bundle.sign import public_key
from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.release.trust import present, said, say_waits, trust_of
from edgekit.core.digest import encode_hook
from edgekit.core.golden import Golden
from edgekit.core.manifest import GATE, oci_platform, parse_config
from edgekit.data import cache_root
from edgekit.signing.releases import Signing, lookup, ready, sign_if_held


def _own_runtime() -> str:
    machine = oci_platform(platform.machine())
    return f"{machine}:{sys.version_info.major}.{sys.version_info.minor}"


def pack(
    model: Annotated[Path, typer.Argument(help="A folder that `edgekit build` made.")],
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    context: Annotated[
        int | None, typer.Option(help="Cap for prompt and answer, in tokens; default 4096.")
    ] = None,
    max_answer: Annotated[
        int | None, typer.Option(help="Cap for one answer, in tokens; default: the context.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="PLATFORM:PYTHON of devices, repeatable; default: this machine's."),
    ] = None,
    accept_ungated: Annotated[
        bool,
        typer.Option("--accept-ungated", help="Pack a model that has not passed the gate."),
    ] = False,
    soak: Annotated[
        float,
        typer.Option(help="Seconds for which a device watches the new release; 0 for none."),
    ] = SOAK_SECONDS,
    golden: Annotated[
        bool,
        typer.Option(
            "--golden/--no-golden",
            help="Let devices compare the model's answers with those on this machine.",
        ),
    ] = True,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack model, agent and runtimes into one bundle, named by its digest.

    \b
    Example:  edgekit pack models/phi --name phi --version 3 --runtime linux/arm64:3.11
    """
    here = project.find(project_folder)
    runtimes = [parse_runtime(text) for text in runtime or [_own_runtime()]]
    trust = trust_of(here.folder)
    ready(trust, present())  # what could not be signed is told before minutes of packing
    began = time.monotonic()
    with render.working("packing") as report:
        digest = pack_bundle(
            here.store,
            cache_root(),
            model,
            name=name,
            version=version,
            context=context,
            max_answer=max_answer,
            runtimes=runtimes,
            keys=here.keys,
            accept_ungated=accept_ungated,
            golden=golden,
            soak_seconds=soak,
            report=report,
        )
    seconds = time.monotonic() - began
    pinned = here.store.resolve(digest)
    manifest = pinned.manifest
    config = parse_config(here.store.read(manifest.config.digest))
    signing = sign_if_held(trust, pinned, config, present())
    total = sum(d.size for d in (manifest.config, *manifest.layers))
    provenance = read_provenance(read_docs(here.store, manifest), manifest, public_key(here.keys))
    if as_json:
        render.print_json(
            {
                "bundle": f"{name}:{version}",
                "digest": digest,
                "bytes": total,
                "seconds": seconds,
                "gate": manifest.annotations[GATE],
                "golden": _golden(read_golden(here.store, manifest)),
                "signed_by": provenance.signed_by if provenance else None,
                "release": msgspec.to_builtins(signing.release) if signing else None,
                "waits": signing.waits if signing else [],
            }
        )
        return
    render.say(f"packed  {name}:{version}  {render.size(total)} in {seconds:.1f} s")
    render.say(f"digest  {digest}")
    render.say(f"gate    {manifest.annotations[GATE]}")
    render.say(f"golden  {_golden_text(read_golden(here.store, manifest))}")
    render.say(f"signed  {_signature(provenance)}")
    waiting = trust.folder.pending() is not None
    render.say(f"release {_release(signing, f'{name}:{version}', waiting)}")
    if signing:
        say_waits(signing.waits)


def _release(signing: Signing | None, reference: str, waiting: bool) -> str:
    if signing is not None:
        return said(signing.release)
    why = "another change waits" if waiting else "the targets key is not on this machine"
    first = "`edgekit key sign`, then " if waiting else ""
    return f"not signed: {why}; {first}`edgekit sign {reference}`"


def _signature(provenance: Provenance | None) -> str:
    if provenance is None:
        return "no: the model folder has no provenance"
    known = "this project's key" if provenance.verified else "not this project's key, not checked"
    return f"by {provenance.signed_by[:12]} ({known})"


def _golden(golden: Golden | None) -> dict[str, float] | None:
    """The size of the golden prompts, for JSON."""
    if golden is None:
        return None
    return {
        "prompts": len(golden.prompts),
        "positions": sum(len(prompt.best) for prompt in golden.prompts),
        "soak_seconds": golden.soak_seconds,
    }


def _golden_text(golden: Golden | None) -> str:
    if golden is None:
        return "no prompts, no soak: a trial asks for one answer"
    positions = sum(len(prompt.best) for prompt in golden.prompts)
    prompts = f"{len(golden.prompts)} prompts, {positions} positions" if positions else "no prompts"
    return f"{prompts}; {golden.soak_seconds:g} s of soak"


def inspect(
    bundle: Annotated[
        str | None, typer.Argument(help="Name, name:version or digest; default: the newest.")
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds: layers, sizes, caps, fit, and what made its model.

    \b
    Example:  edgekit inspect smollm2:1 --json
    """
    here = project.find(project_folder)
    store = here.store
    pinned = store.resolve(bundle)
    config = parse_config(store.read(pinned.manifest.config.digest))
    docs = read_docs(store, pinned.manifest)
    provenance = read_provenance(docs, pinned.manifest, public_key(here.keys))
    gate = pinned.manifest.annotations.get(GATE, UNGATED)
    release = lookup(trust_of(here.folder), pinned.digest)
    if as_json:
        render.print_json(
            {
                "digest": pinned.digest,
                "gate": gate,
                "provenance": msgspec.to_builtins(provenance),
                "release": msgspec.to_builtins(release),
                "docs": sorted(docs),
                "golden": _golden(read_golden(store, pinned.manifest)),
                "config": msgspec.to_builtins(config),
                "manifest": msgspec.to_builtins(pinned.manifest, enc_hook=encode_hook),
            }
        )
        return
    render.say(f"digest   {pinned.digest}")
    render.say(f"bundle   {config.name}:{config.version}, a {config.model_type} model")
    render.say(
        f"caps     {config.context_length} tokens of context, answers of at most "
        f"{config.max_answer_tokens}; KV memory {render.size(config.kv_bytes_per_token)} per token"
    )
    render.say(
        f"needs    {render.size(config.fit.ram_bytes)} RAM, {render.size(config.fit.disk_bytes)} "
        f"disk, glibc {config.fit.glibc}"
    )
    render.say(f"samples  {config.search}")
    tested = f" ({provenance.gate})" if provenance and provenance.passed else ""
    render.say(f"gate     {gate}{tested}")
    render.say(f"golden   {_golden_text(read_golden(store, pinned.manifest))}")
    render.say(f"signed   {_signature(provenance)}")
    render.say(f"release  {said(release) if release else 'not signed: `edgekit sign`'}")
    if provenance:
        revision = f" at {provenance.revision}" if provenance.revision else ""
        render.say(f"source   {provenance.model}{revision}")
        render.say(f"build    {provenance.build_id} ({provenance.isolation})")
    for layer in pinned.manifest.layers:
        render.say(f"layer    {layer.digest.short}  {render.size(layer.size):>9}  {layer.title}")

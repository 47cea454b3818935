"""Cases beside the architectures: other inputs of several families, precisions and providers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.support.adapter import no_adapter_for
from edgekit.builder.support.limits import adapter_lost
from edgekit.errors import EdgekitError
from tests.matrix.families import Family
from tests.matrix.row import FP16_TOLERANCE, Row, judged
from tests.matrix.run import HERE, Bench, make_checkpoints, reason, refusal_of
from tests.matrix.shapes import FAMILIES, FIRST

MAKE_INPUT = HERE / "inside" / "make_input.py"
STRUCTURE = HERE / "inside" / "structure.py"
MAKE_SECONDS = 120
PACKED = ("awq", "gptq", "olive")
# The builder reads no packed checkpoint as FP32: its matrices stay as they are and everything else
# is kept out of quantisation and in float.
EXACT = ("accuracy_level=1", "nodes_to_exclude=/lm_head/MatMul")


_PLAIN_GGUF = ("Qwen2ForCausalLM",)
"""llama.cpp keeps their tensors in Hugging Face's form."""


class Extra(msgspec.Struct, frozen=True):
    """A case: its name, its table, and what fills its row."""

    name: str
    group: str
    run: Callable[[Bench, str], Row]


def _checkpoint(bench: Bench, name: str, of: Family = FAMILIES[0], **changes: Any) -> Path:
    """A checkpoint of its own for each case: they run side by side."""
    values = {**of.values, **changes}
    family = msgspec.structs.replace(of, name=f"{of.architecture} {name}", values=values)
    listed = f"{name.replace('/', '-').replace(' ', '-')}.json"
    return make_checkpoints(bench, [family], listed)[family.name][0]


def _input(kind: str, of: Family = FAMILIES[0]) -> Callable[[Bench, str], Row]:
    """A checkpoint in another form; the exact build is equal to what the form holds."""

    def case(bench: Bench, name: str) -> Row:
        base = _checkpoint(bench, name, of)
        made = base.parent / "input"
        bench.python(MAKE_INPUT, kind, base, made, seconds=MAKE_SECONDS)
        # the same weights as transformers reads them
        reference = made / "reference"
        source = made / "model.gguf" if kind.startswith("gguf") else made / "source"
        how: dict[str, Any] = {}
        adapter = None
        if kind.startswith("lora"):
            reference, source, adapter = base, base, made / "adapter"
            how["options"] = (f"adapter_path={adapter}",)
        exact: dict[str, Any] = {"precision": "fp32", **how}
        if kind in PACKED:
            exact = {"precision": "int4", "options": EXACT}
        models: dict[str, Path] = {}
        found: dict[str, dict[str, Any]] = {}
        for label, request in (("exact", exact), ("int4", {"precision": "int4", **how})):
            try:
                models[label] = bench.build(source, label, **request)
            except EdgekitError as error:
                found[label] = {"error": reason(error)}
        found |= bench.compare(reference, models, adapter) if models else {}
        return judged(name, "input", found["exact"], found["int4"], labels=("exact", "INT4"))

    return case


def _target(precision: str, provider: str, **changes: Any) -> Callable[[Bench, str], Row]:
    """Another precision on this machine's processor, or another provider's graph."""

    labels = (precision.upper(), precision.upper())

    def case(bench: Bench, name: str) -> Row:
        source = _checkpoint(bench, name, **changes)
        refusal = refusal_of(source, precision, provider)
        found: dict[str, Any] = {"refused": refusal} if refusal else {}
        try:
            if refusal:
                model = bench.convert(source, "model", precision, provider)
            else:
                model = bench.build(source, "model", precision=precision, provider=provider)
            if provider != "cpu":
                said = bench.python(STRUCTURE, model / "model.onnx", seconds=MAKE_SECONDS)
                return judged(name, "target", found, {}, said.strip(), labels=labels)
            found |= bench.compare(source, {"model": model})["model"]
        except EdgekitError as error:
            found["error"] = reason(error)
        if precision == "fp16" or "error" in found:
            note = "" if refusal else "slow: the runtime has no grouped attention for it on a CPU"
            return judged(name, "target", found, {}, note, FP16_TOLERANCE, labels)
        return judged(name, "target", {}, found, labels=labels)

    return case


EXTRAS: tuple[Extra, ...] = (
    Extra("LoRA adapter of rank 64 (PEFT)", "input", _input("lora64")),
    Extra("LoRA adapter of rank 8 (PEFT)", "input", _input("lora8")),
    Extra("GGUF F16", "input", _input("gguf-f16")),
    Extra("GGUF Q4_0", "input", _input("gguf-q4_0")),
    *(
        Extra(f"{family.architecture} with a LoRA adapter", "input", _input("lora8", family))
        for family in FIRST[1:]
        if adapter_lost(family.architecture) is None
        and no_adapter_for({"architectures": [family.architecture]}) is None
    ),
    *(
        Extra(f"{family.architecture}, GGUF F16", "input", _input("gguf-f16", family))
        for family in FIRST
        if family.architecture in _PLAIN_GGUF
    ),
    Extra("AWQ 4 bit, group 32", "input", _input("awq")),
    Extra("GPTQ 4 bit, group 32", "input", _input("gptq")),
    Extra("Olive 4 bit, group 32", "input", _input("olive")),
    *(
        Extra(f"{precision}/{provider}", "target", _target(precision, provider))
        for precision, provider in (
            ("int8", "cpu"), ("fp16", "cuda"), ("int8", "cuda"), ("int4", "cuda"),
            ("fp16", "dml"), ("int4", "dml"), ("int8", "webgpu"), ("int4", "webgpu"),
        )
    ),
    Extra("fp16/cpu, one KV head per head", "target", _target(
        "fp16", "cpu", num_key_value_heads=4)),
    Extra("fp16/cpu, grouped heads", "target", _target("fp16", "cpu")),
    Extra("fp32/cuda", "target", _target("fp32", "cuda")),
)  # fmt: skip

"""A folder as `edgekit build` leaves it, in a few kilobytes: all but the model is real."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.builder.files import record_files
from edgekit.builder.output.provenance import provenance_bytes
from edgekit.builder.spec import BuildRecord, BuildSpec, GateSummary, Source
from edgekit.core.buildinfo import PROVENANCE_NAME, RECORD_NAME

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = Source("hub", "Org/Tiny-Instruct", COMMIT, {"model.safetensors": "aa" * 32})
SPEC = BuildSpec(
    source=SOURCE,
    precision="int4",
    provider="cpu",
    options={"algo_config": "k_quant"},
    option_files={},
    toolchain="bb" * 32,
)
PASSED = GateSummary(profile="strict", thresholds="cc" * 32, passed=True, mean_kl=0.01)
FAILED = GateSummary(profile="strict", thresholds="cc" * 32, passed=False, mean_kl=9.0)

MODEL = {
    "genai_config.json": msgspec.json.encode(
        {
            "model": {
                "type": "llama",
                "context_length": 64,
                "decoder": {"num_key_value_heads": 1, "head_size": 8, "num_hidden_layers": 2},
            }
        }
    ),
    "model.onnx": b"graph",
    "model.onnx.data": b"weights" * 1000,
    "tokenizer.json": msgspec.json.encode(
        {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
        }
    ),
    "chat_template.jinja": b"{% for message in messages %}{{ message.content }}{% endfor %}",
}
ABOUT = {"gate.json": b'{"passed":true}', "report.html": b"<html>", "LICENSE.txt": b"MIT"}


def model_folder(folder: Path, gate: GateSummary | None = PASSED, seconds: float = 1.0) -> Path:
    """Write a built model.

    Args:
        gate: the gate's summary; None for a model that was not tested.
        seconds: run time of the build.
    """
    folder.mkdir(parents=True)
    for name, data in MODEL.items():
        (folder / name).write_bytes(data)
    record = BuildRecord(
        build_id=SPEC.build_id(),
        spec=SPEC,
        files=record_files(folder, MODEL),
        tools={"onnxruntime-genai": "0.18.0", "torch": "2.13.0+cpu"},
        seconds=seconds,
        recipe="k-quant",
        route="low-memory",
        gate=gate,
    )
    (folder / RECORD_NAME).write_bytes(msgspec.json.encode(record))
    (folder / PROVENANCE_NAME).write_bytes(provenance_bytes(record))
    for name, data in ABOUT.items():
        (folder / name).write_bytes(data)
    return folder

"""A model folder scored against golden prompts in this process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.agent.serve.worker.decoder import RuntimeOptions, open_model
from edgekit.agent.serve.worker.golden import score
from edgekit.core.golden import Golden, GoldenScore
from edgekit.tokens.chat import open_tokenizer


def context_of(model: Path) -> int:
    config = msgspec.json.decode((model / "genai_config.json").read_bytes())
    return min(int(config["model"]["context_length"]), 512)


def scored(model: Path, golden: Golden, threads: int = 2, batching: bool = False) -> GoldenScore:
    """How this model compares, with the kernels of this machine."""
    options = RuntimeOptions(threads, spinning=False)
    decoder, _ = open_model(model, context_of(model), options, 1, batching)
    assert decoder.limits.batched == batching
    return score(decoder, open_tokenizer(model), golden)

"""A bundle's runtime runs on the CPU: pack refuses a model for anything else, by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle.pack import read_model
from edgekit.errors import UsageError


def folder(at: Path, providers: list[dict[str, Any]] | None) -> Path:
    decoder: dict[str, Any] = {
        "num_key_value_heads": 1, "head_size": 16, "num_hidden_layers": 1,
    }  # fmt: skip
    if providers is not None:
        decoder["session_options"] = {"provider_options": providers}
    content = {"model": {"context_length": 64, "type": "llama", "decoder": decoder}}
    (at / "genai_config.json").write_text(json.dumps(content), encoding="utf-8")
    return at


@pytest.mark.parametrize("name", ["cuda", "dml", "webgpu", "WebGPU"])
def test_a_model_for_another_provider_is_refused(tmp_path: Path, name: str) -> None:
    options = {"cuda": {"enable_cuda_graph": "0"}}.get(name, {})
    with pytest.raises(UsageError, match=f"is a model for {name.lower()}") as refused:
        read_model(folder(tmp_path, [{name: options}]))
    assert "-e cpu" in str(refused.value.next_step)


@pytest.mark.parametrize("providers", [None, [], [{"cpu": {}}]])
def test_a_model_for_a_cpu_is_taken(tmp_path: Path, providers: list[dict[str, Any]] | None) -> None:
    assert read_model(folder(tmp_path, providers)).provider == "cpu"


@pytest.mark.parametrize("providers", ["cuda", [1], {"cuda": 3}, [None]])
def test_provider_options_of_another_shape_are_refused(tmp_path: Path, providers: Any) -> None:
    with pytest.raises(UsageError):
        read_model(folder(tmp_path, providers))

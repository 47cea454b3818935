"""A source's tensors by the model builder's names, as the lint reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.builder.tools.process import INSIDE

sys.path.append(str(INSIDE))  # the scripts find each other so

from edgekit.builder.inside.lint.checkpoint import CheckpointTensors, Rows

LAYER = "model.layers.3."


def write(path: Path, tensors: dict[str, np.ndarray], kind: str = "F32") -> None:
    """A safetensors file; values of BF16 are the upper halves of float32."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = values.astype("<f4").view("<u2")[..., 1::2] if kind == "BF16" else values
        content = np.ascontiguousarray(raw).tobytes()
        place = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": place}
        data += content
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def numbers(rows: int, columns: int, first: float = 0.0) -> np.ndarray:
    return (np.arange(rows * columns, dtype="<f4") + first).reshape(rows, columns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = {
        f"{LAYER}self_attn.q_proj.weight": numbers(4, 8),
        f"{LAYER}self_attn.k_proj.weight": numbers(2, 8, 100),
        f"{LAYER}self_attn.v_proj.weight": numbers(2, 8, 200),
        f"{LAYER}mlp.gate_up_proj.weight": numbers(6, 8, 300),
        f"{LAYER}input_layernorm.weight": np.arange(8, dtype="<f4"),
        f"{LAYER}rotary_emb.inv_freq": np.arange(4, dtype="<f4"),
    }
    write(tmp_path / "one.safetensors", parts)
    others = {"model.norm.weight": np.ones(8), "lm_head.weight": numbers(16, 8, 400),
              "model.embed_tokens.weight": numbers(16, 8, 500)}  # fmt: skip
    write(tmp_path / "two.safetensors", others, "BF16")
    # left over from another version of the repository
    write(tmp_path / "consolidated.safetensors", {"model.norm.weight": np.zeros(8, "<f4")})
    where = dict.fromkeys(parts, "one.safetensors") | dict.fromkeys(others, "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return tmp_path


def test_rows_of_three_tensors_stand_one_after_the_other(folder: Path) -> None:
    source = CheckpointTensors(folder)
    places = source.matrix("qkv_proj", 3, (8, 8), tied=False)
    assert places is not None
    assert [place.count for place in places] == [4, 2, 2]
    rows = source.rows(places, slice(3, 7))
    assert rows[:, 0].tolist() == [24, 100, 108, 200]


def test_half_of_a_joined_tensor(folder: Path) -> None:
    source = CheckpointTensors(folder)
    name = f"{LAYER}mlp.gate_up_proj.weight"
    assert source.matrix("gate_proj", 3, (3, 8), tied=False) == [Rows(name, 0, 3)]
    assert source.matrix("up_proj", 3, (3, 8), tied=False) == [Rows(name, 3, 3)]


def test_only_the_files_of_the_index_count_and_halves_are_widened(folder: Path) -> None:
    source = CheckpointTensors(folder)
    norm = source.vector("final_norm_layernorm", None, "weight", 8)
    assert norm is not None
    assert norm.tolist() == [1.0] * 8
    assert source.kind("model.norm.weight") == "bfloat16"


@pytest.mark.parametrize(
    ("tied", "name"), [(True, "model.embed_tokens.weight"), (False, "lm_head.weight")]
)
def test_a_tied_head_is_the_embedding(folder: Path, tied: bool, name: str) -> None:
    places = CheckpointTensors(folder).matrix("lm_head", None, (16, 8), tied=tied)
    assert places == [Rows(name, 0, 16)]


def test_a_head_that_is_stored_is_known(folder: Path, tmp_path: Path) -> None:
    """transformers takes it, also where only the class of the model ties it."""
    assert CheckpointTensors(folder).stores_head()
    (alone := tmp_path / "alone").mkdir()
    write(alone / "model.safetensors", {"model.embed_tokens.weight": numbers(16, 8)})
    assert not CheckpointTensors(alone).stores_head()


def test_what_was_not_asked_for_is_known(folder: Path) -> None:
    source = CheckpointTensors(folder)
    source.matrix("qkv_proj", 3, (8, 8), tied=False)
    known = {"input_layernorm.weight", "mlp.gate_up_proj.weight", "self_attn.q_proj.weight"}
    assert source.unused(4, known) == [
        f"{LAYER}mlp.gate_up_proj.weight", f"{LAYER}input_layernorm.weight"
    ]  # fmt: skip
    assert source.unused(3, known) == []


def test_a_tensor_of_another_shape_or_type_is_not_found(folder: Path) -> None:
    source = CheckpointTensors(folder)
    assert source.matrix("qkv_proj", 3, (9, 8), tied=False) is None
    assert source.matrix("qkv_proj", 2, (8, 8), tied=False) is None
    assert source.vector("input_layernorm", 3, "weight", 9) is None
    write(folder / "two.safetensors", {"lm_head.weight": numbers(16, 2)}, "F8_E4M3")
    assert CheckpointTensors(folder).matrix("lm_head", None, (16, 2), tied=False) is None

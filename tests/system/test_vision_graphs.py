"""The vision and embedding graphs of Phi-3.5-vision against torch, on a tiny checkpoint."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.pictured import (
    LAYOUTS,
    Floats,
    checkpoint,
    features,
    graphs,
    noise,
    one_by_one,
    session,
    torch_says,
)

TOLERANCE = 1e-4
VISION = "model.vision_embed_tokens."


@pytest.fixture(scope="module")
def source(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(python, tmp_path_factory.mktemp("phi3v") / "source")


@pytest.fixture(scope="module")
def fp32(python: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graphs") / "fp32"
    assert graphs(python, source, out).returncode == 0
    return out


@pytest.fixture(scope="module")
def said(python: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Floats]:
    """Layout -> the features that torch computes."""
    cases: dict[str, npt.NDArray[np.generic]] = {}
    for number, crops in enumerate(LAYOUTS.values()):
        views = noise(crops, number)
        cases |= {f"pixels_{number}": views.pixels, f"sizes_{number}": views.sizes}
    found = torch_says(python, source, cases, tmp_path_factory.mktemp("said"))
    return {name: found[f"features_{n}"] for n, name in enumerate(LAYOUTS)}  # type: ignore[misc]  # an NpzFile


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_those_of_torch_whole_and_view_by_view(
    layout: str, fp32: Path, said: dict[str, Floats]
) -> None:
    vision = session(fp32 / "vision.onnx")
    views = noise(LAYOUTS[layout], list(LAYOUTS).index(layout))
    whole = features(vision, views)
    assert whole.shape == (views.tokens, 64)
    assert np.abs(whole - said[layout]).max() <= TOLERANCE
    assert np.abs(said[layout]).max() > 1  # the tolerance is small against the values
    assert np.abs(one_by_one(vision, views) - whole).max() <= TOLERANCE / 10


def test_int8_is_close_to_torch_and_a_third_of_the_size(
    python: str, source: Path, fp32: Path, said: dict[str, Floats], tmp_path: Path
) -> None:
    assert graphs(python, source, tmp_path / "int8", "int8").returncode == 0
    vision = session(tmp_path / "int8" / "vision.onnx")
    found = features(vision, noise(LAYOUTS["four crops"], list(LAYOUTS).index("four crops")))
    wanted = said["four crops"]
    cosine = (found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert 0.999 < cosine < 0.999999
    # the patches' kernel and the places stay in FP32
    sizes = [(f / "vision.onnx.data").stat().st_size for f in (tmp_path / "int8", fp32)]
    assert sizes[0] < 0.6 * sizes[1]


def test_the_embedding_takes_rows_of_pictures_for_ids_below_zero(source: Path, fp32: Path) -> None:
    embedding = session(fp32 / "embedding.onnx")
    none = np.zeros((0, 64), np.float32)
    ids = np.arange(512, dtype=np.int64)[None]
    table = embedding.run(None, {"input_ids": ids, "image_features": none})[0][0]
    index = json.loads((source / "model.safetensors.index.json").read_text())
    file = source / index["weight_map"]["model.embed_tokens.weight"]
    raw = np.frombuffer(file.read_bytes()[-512 * 64 * 2 :], "<u2").astype(np.uint32)
    assert np.array_equal(table, (raw << 16).view(np.float32).reshape(512, 64))

    rows = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    mixed = np.array([[7, -1, -9_000_000_000, 8, -3]], np.int64)
    found = embedding.run(None, {"input_ids": mixed, "image_features": rows})[0][0]
    assert np.array_equal(found[[0, 3]], table[[7, 8]])
    assert np.array_equal(found[[1, 2, 4]], rows)
    with pytest.raises(Exception, match="ScatterND"):
        embedding.run(None, {"input_ids": mixed, "image_features": rows[:2]})


@pytest.mark.parametrize(
    ("names", "table"),
    [("transformers", "outer"), ("microsoft", "inner"), ("transformers", "both")],
)
def test_every_layout_of_names_gives_the_same_bytes(
    names: str, table: str, python: str, fp32: Path, tmp_path: Path
) -> None:
    other = checkpoint(python, tmp_path / "source", "--names", names, "--table", table)
    out = tmp_path / "graphs"
    assert graphs(python, other, out).returncode == 0
    for file in fp32.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        ("lacks", "the checkpoint lacks model.vision_embed_tokens.img_processor"),
        ("shape", "sub_GN is 1 x 1 x 1 x 256, the rest of the vision part: 1 x 1 x 1 x 512"),
        ("strange", "the vision part has no place for model.vision_embed_tokens.odd"),
        ("packed", "sub_GN is I8; a vision part has to be of floats"),
        ("two tables", "model.embed_tokens.weight and model.vision_embed_tokens.wte.weight differ"),
    ],
)
def test_a_vision_part_that_is_not_whole_is_refused_by_name(
    change: str, said_of_it: str, python: str, tmp_path: Path
) -> None:
    source = checkpoint(python, tmp_path / "source", "--table", "both")
    index_file = source / "model.safetensors.index.json"
    where = json.loads(index_file.read_text())["weight_map"]
    name = "model.vision_embed_tokens.sub_GN"
    if change == "lacks":
        name = next(n for n in where if n.endswith("layers.1.mlp.fc2.bias"))
    if change == "two tables":
        name = "model.vision_embed_tokens.wte.weight"
    file = source / where[name]
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    entry = header[name]
    if change == "lacks":
        del header[name]
    elif change == "shape":
        entry["shape"] = [1, 1, 1, 256]
        entry["data_offsets"][1] -= 512
    elif change == "strange":
        header["model.vision_embed_tokens.odd"] = {**entry, "shape": [512]}
    elif change == "packed":
        entry["dtype"], entry["shape"] = "I8", [1, 1, 1, 1024]
    else:
        data[entry["data_offsets"][0]] ^= 1
    told = json.dumps(header).encode()
    file.write_bytes(len(told).to_bytes(8, "little") + told + data)
    done = graphs(python, source, tmp_path / "out")
    assert done.returncode == 1
    event = json.loads((tmp_path / "out.events").read_text().splitlines()[0])
    assert event["kind"] == "incomplete"
    assert said_of_it in event["message"]


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def real_shapes(layers: int, table: int) -> dict[str, tuple[int, ...]]:
    """The vision part in its real size, with so many layers, and the embedding's width."""
    at, width, hidden = f"{VISION}img_processor.vision_model", 1024, 3072
    found = {
        "model.embed_tokens.weight": (32064, table),
        f"{at}.embeddings.class_embedding": (width,),
        f"{at}.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{at}.embeddings.position_embedding.weight": (577, width),
        **affine(f"{at}.pre_layrnorm", width),
        f"{VISION}glb_GN": (1, 1, 4 * width),
        f"{VISION}sub_GN": (1, 1, 1, 4 * width),
        **affine(f"{VISION}img_projection.0", hidden, 4 * width),
        **affine(f"{VISION}img_projection.2", hidden, hidden),
    }
    for layer in range(layers):
        name = f"{at}.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= affine(f"{name}.self_attn.{part}", width, width)
        found |= affine(f"{name}.mlp.fc1", 4096, width) | affine(f"{name}.mlp.fc2", width, 4096)
        found |= affine(f"{name}.layer_norm1", width) | affine(f"{name}.layer_norm2", width)
    return found


@pytest.mark.parametrize(
    ("layers", "table", "said_of_it"),
    [
        (23, 3072, "the CLIP tower has 23 layers, not 24"),
        (24, 2048, "the vision part's rows are 3072 wide, the embedding 2048"),
    ],
)
def test_a_tower_that_lacks_its_last_layer_or_another_table_is_refused(
    layers: int, table: int, said_of_it: str, python: str, tmp_path: Path
) -> None:
    """Only the header is read before that: the file has no bytes behind it."""
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * prod(shape)]}
        for name, shape in real_shapes(layers, table).items()
    }
    told = json.dumps(header).encode()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"architectures": ["Phi3VForCausalLM"]}')
    (tmp_path / "source" / "model.safetensors").write_bytes(len(told).to_bytes(8, "little") + told)
    # transformers does not look at an index beside the one file
    index = tmp_path / "source" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"model.embed_tokens.weight": "gone.safetensors"}}')
    assert graphs(python, tmp_path / "source", tmp_path / "out").returncode == 1
    event = json.loads((tmp_path / "out.events").read_text().splitlines()[0])
    assert event["kind"] == "incomplete"
    assert said_of_it in event["message"]

"""Plants one structural defect in a built model folder; for the toolchain's interpreter.

    python plant_structure.py FOLDER DEFECT     (names: the functions of `DEFECTS`)

The model's output does not matter here: these are defects of the files.
"""

# mypy: disable-error-code="import-not-found,no-untyped-def"

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

GRAPH, DATA = "model.onnx", "model.onnx.data"
DEFECTS: dict[str, Callable[[Path], None]] = {}


def defect(plant: Callable[[Path], None]) -> Callable[[Path], None]:
    DEFECTS[plant.__name__.replace("_", "-")] = plant
    return plant


def load(folder: Path):
    return onnx.load(folder / GRAPH, load_external_data=False)


def save(folder: Path, model) -> None:
    (folder / GRAPH).write_bytes(model.SerializeToString())


def entries(tensor) -> dict[str, Any]:
    return {entry.key: entry for entry in tensor.external_data}


def span(tensor) -> tuple[int, int]:
    found = entries(tensor)
    return int(found["offset"].value), int(found["length"].value)


def quantised(model: Any) -> list[Any]:
    return [n for n in model.graph.node if n.op_type == "MatMulNBits"]


def tensors(model: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def overwrite(folder: Path, tensor, data: bytes) -> None:
    offset, length = span(tensor)
    with (folder / DATA).open("r+b") as file:
        file.seek(offset)
        file.write(data[:length])


def change_json(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def set_attribute(folder: Path, name: str, value: int, count: int | None = None) -> None:
    model = load(folder)
    for node in quantised(model)[:count]:
        for attribute in node.attribute:
            if attribute.name == name:
                attribute.i = value
    save(folder, model)


def insert(folder: Path, at: int, count: int) -> None:
    """Bytes that no tensor refers to; every tensor behind them moves."""
    model = load(folder)
    for tensor in model.graph.initializer:
        offset, _ = span(tensor)
        if offset >= at:
            entries(tensor)["offset"].value = str(offset + count)
    save(folder, model)
    data = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(data[:at] + bytes(count) + data[at:])


@defect
def block_size(folder: Path) -> None:
    set_attribute(folder, "block_size", 64)


@defect
def one_block_size(folder: Path) -> None:
    set_attribute(folder, "block_size", 16, count=1)


@defect
def accuracy_level(folder: Path) -> None:
    set_attribute(folder, "accuracy_level", 1, count=1)


@defect
def truncated(folder: Path) -> None:
    os.truncate(folder / DATA, (folder / DATA).stat().st_size - 1)


@defect
def no_data(folder: Path) -> None:
    (folder / DATA).unlink()


@defect
def appended(folder: Path) -> None:
    with (folder / DATA).open("ab") as file:
        file.write(bytes(1))


@defect
def hole(folder: Path) -> None:
    model = load(folder)
    offsets = sorted(span(tensor)[0] for tensor in model.graph.initializer)
    insert(folder, offsets[len(offsets) // 2], 64)


@defect
def hole_at_the_front(folder: Path) -> None:
    insert(folder, 0, 4096)


@defect
def second_data_file(folder: Path) -> None:
    (folder / "old.onnx.data").write_bytes(bytes(100))


@defect
def overlap(folder: Path) -> None:
    model = load(folder)
    one = min(model.graph.initializer, key=lambda tensor: span(tensor)[0] or 1 << 60)
    entries(one)["offset"].value = str(span(one)[0] - 4)
    save(folder, model)


@defect
def length(folder: Path) -> None:
    model = load(folder)
    last = max(model.graph.initializer, key=lambda tensor: span(tensor)[0])
    last.dims[0] += 1
    save(folder, model)


@defect
def outside(folder: Path) -> None:
    model = load(folder)
    (folder / DATA).rename(folder.parent / f"{folder.name}.data")
    for tensor in model.graph.initializer:
        entries(tensor)["location"].value = f"../{folder.name}.data"
    save(folder, model)


@defect
def link_outside(folder: Path) -> None:
    away = folder.parent / f"{folder.name}.data"
    (folder / DATA).rename(away)
    (folder / DATA).symlink_to(away)


@defect
def half_graph(folder: Path) -> None:
    os.truncate(folder / GRAPH, (folder / GRAPH).stat().st_size // 2)


@defect
def no_graph(folder: Path) -> None:
    (folder / GRAPH).unlink()


@defect
def lost_weight(folder: Path) -> None:
    model = load(folder)
    name = quantised(model)[0].input[2]
    model.graph.initializer.remove(tensors(model)[name])
    save(folder, model)


@defect
def half_cache(folder: Path) -> None:
    model = load(folder)
    for entry in model.graph.input:
        if entry.name.startswith("past_key_values"):
            entry.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    save(folder, model)


@defect
def nan_scale(folder: Path) -> None:
    model = load(folder)
    overwrite(folder, tensors(model)[quantised(model)[0].input[2]], struct.pack("<f", float("nan")))


@defect
def infinite_norm(folder: Path) -> None:
    model = load(folder)
    norm = next(t for t in model.graph.initializer if t.name.endswith("layernorm.weight"))
    overwrite(folder, norm, struct.pack("<f", float("inf")))


def of_layer_one(model: Any) -> list[Any]:
    return [n for n in quantised(model) if "/layers.1/" in n.name]


@defect
def zero_layer(folder: Path) -> None:
    """As if the source's layer had been zeros: the value of zero, and scales of 0."""
    model = load(folder)
    for node in of_layer_one(model):
        weight, scales = (tensors(model)[name] for name in node.input[1:3])
        overwrite(folder, weight, b"\x88" * span(weight)[1])
        overwrite(folder, scales, bytes(span(scales)[1]))


@defect
def zero_bytes(folder: Path) -> None:
    """As if a disk had never written the blocks; the scales are sound."""
    model = load(folder)
    weight = tensors(model)[of_layer_one(model)[0].input[1]]
    overwrite(folder, weight, bytes(span(weight)[1]))


@defect
def zero_scales(folder: Path) -> None:
    model = load(folder)
    scales = tensors(model)[of_layer_one(model)[0].input[2]]
    overwrite(folder, scales, bytes(span(scales)[1]))


@defect
def max_length(folder: Path) -> None:
    change_json(folder, "genai_config.json", lambda c: c["search"].update(max_length=131072))


@defect
def eos_outside(folder: Path) -> None:
    change_json(folder, "genai_config.json", lambda c: c["model"].update(eos_token_id=[2, 50000]))


@defect
def eos_unknown(folder: Path) -> None:
    def last(config: dict[str, Any]) -> None:
        config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1

    change_json(folder, "genai_config.json", last)


@defect
def one_layer_less(folder: Path) -> None:
    def less(config: dict[str, Any]) -> None:
        config["model"]["decoder"]["num_hidden_layers"] -= 1

    change_json(folder, "genai_config.json", less)


@defect
def larger_vocabulary(folder: Path) -> None:
    change_json(folder, "genai_config.json", lambda c: c["model"].update(vocab_size=50000))


@defect
def no_config(folder: Path) -> None:
    (folder / "genai_config.json").unlink()


@defect
def broken_config(folder: Path) -> None:
    (folder / "genai_config.json").write_text('{"model": ', encoding="utf-8")


@defect
def tokenizer_words(folder: Path) -> None:
    change_json(folder, "tokenizer.json", lambda t: t["model"]["vocab"].update({"word": 50000}))


@defect
def tokenizer_added(folder: Path) -> None:
    token = {"id": 50000, "content": "<tool>", "special": False}
    change_json(folder, "tokenizer.json", lambda t: t["added_tokens"].append(token))


@defect
def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@defect
def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


if __name__ == "__main__":
    DEFECTS[sys.argv[2]](Path(sys.argv[1]))

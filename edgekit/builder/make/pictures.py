"""The part of a model that sees: its graphs, and what the folder's configuration says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.files import keep_log
from edgekit.builder.source.checkpoint import INDEX, SINGLE, read_checkpoint
from edgekit.builder.spec import VisionPrecision
from edgekit.builder.support.pictures import INNER_TABLE, TABLE
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import event
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.errors import UsageError

DEADLINE_SECONDS = 3600
PROCESSOR = "processor_config.json"
_TABLE_FILE, _SINGLE_FILE = "embedding.safetensors", "weights.safetensors"
_PIECE_BYTES = 2**24
_SECTIONS: dict[str, Any] = {
    "vision": {
        "filename": "vision.onnx",
        "config_filename": PROCESSOR,
        "inputs": {"pixel_values": "pixel_values", "image_sizes": "image_sizes"},
        "outputs": {"image_features": "image_features"},
    },
    "embedding": {
        "filename": "embedding.onnx",
        "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
        "outputs": {"inputs_embeds": "inputs_embeds"},
    },
}
# as onnxruntime-genai 0.18.0 reads it; the device's agent has a processor of its own
_PROCESSOR: dict[str, Any] = {
    "processor": {
        "name": "image_processing",
        "transforms": [
            {
                "operation": {
                    "name": name,
                    "domain": "com.microsoft.extensions",
                    "type": kind,
                    **({"attrs": attributes} if attributes else {}),
                }
            }
            for name, kind, attributes in (
                ("decode_image", "DecodeImage", {"color_space": "BGR"}),
                ("convert_to_rgb", "ConvertRGB", {}),
                ("phi3_image_transform", "Phi3ImageTransform",
                 {"num_crops": 16, "num_img_tokens": 144}),
            )
        ],
    }
}  # fmt: skip


def write_graphs(
    toolchain: Toolchain,
    source: Path,
    precision: VisionPrecision,
    work: Path,
    report: ProgressCallback,
) -> Path:
    """Write `vision.onnx` and `embedding.onnx` with their weights, and return their folder.

    Args:
        source: the Hugging Face folder.
        precision: of the vision part's matrices.
        work: a writable folder.

    Raises:
        UsageError: the checkpoint's vision part is not whole.
        EdgekitError: the script failed; its log is kept in the cache.
    """
    out = work / "pictures"
    job = Job(
        script="picture_graphs.py",
        arguments=("-i", source, "-o", out, "--vision-precision", precision),
        work=work,
        reads=(source,),
        shows=Progress("build", "writing the vision part"),
        deadline_seconds=DEADLINE_SECONDS,
    )
    finished = toolchain.run(job, report)
    if finished.code != 0:
        said = event(finished, "error") or {}
        if said.get("kind") == "incomplete":
            raise UsageError(
                str(said.get("message")),
                why="the part that sees would be another one than the model's",
                next_step="download the model again",
            )
        kept = keep_log(job.log, "last-failed-pictures.log")
        raise failure(
            finished, "the vision part could not be written", f"its whole output is in {kept}"
        )
    return out


def join(graphs: Path, model: Path) -> None:
    """Move the graphs into the model's folder, and tell its configuration of them.

    Args:
        graphs: a folder of `write_graphs`.
        model: the text part as the model builder left it.
    """
    for file in sorted(graphs.iterdir()):
        file.rename(model / file.name)
    path = model / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"].pop("sliding_window", None)  # no layer has one
    config["model"] |= _SECTIONS
    path.write_text(json.dumps(config, indent=4, ensure_ascii=False), encoding="utf-8")
    text = json.dumps(_PROCESSOR, indent=2)
    (model / PROCESSOR).write_text(f"{text}\n", encoding="utf-8")


def with_table(source: Path, view: Path) -> None:
    """Give a view of a folder whose embedding lies in its vision part the usual tensor, too.

    Args:
        source: the Hugging Face folder.
        view: a folder of links to its files.
    """
    tensors = read_checkpoint(source) or {}
    if TABLE in tensors or INNER_TABLE not in tensors:
        return
    inner = tensors[INNER_TABLE]
    place, size = inner.place, inner.place.end - inner.place.begin
    entry = {"dtype": inner.dtype, "shape": inner.shape, "data_offsets": [0, size]}
    header = msgspec.json.encode({TABLE: entry})
    with (view / _TABLE_FILE).open("wb") as out, place.file.open("rb") as file:
        out.write(len(header).to_bytes(8, "little") + header)
        file.seek(place.begin)
        while size > 0:
            out.write(piece := file.read(min(size, _PIECE_BYTES)))
            size -= len(piece)
    index = {name: each.place.file.name for name, each in tensors.items()} | {TABLE: _TABLE_FILE}
    if (view / SINGLE).exists():  # transformers would read that file alone
        (view / SINGLE).rename(view / _SINGLE_FILE)
        index = {name: file.replace(SINGLE, _SINGLE_FILE) for name, file in index.items()}
    (view / INDEX).unlink(missing_ok=True)
    total = sum(each.place.end - each.place.begin for each in tensors.values())
    told = {"metadata": {"total_size": total}, "weight_map": index}
    (view / INDEX).write_bytes(msgspec.json.encode(told))

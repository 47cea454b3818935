"""A view of a checkpoint whose text part has the names that transformers wants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.builder.source.checkpoint import INDEX, SINGLE, read_checkpoint
from edgekit.builder.source.safetensors import StoredTensor
from edgekit.builder.support.pictures import text_tensors
from edgekit.builder.support.seeing.family import TABLE, Config, PictureFamily

VISION_FILE = "vision.safetensors"
_TABLE_FILE, _SINGLE_FILE = "embedding.safetensors", "weights.safetensors"
_PIECE_BYTES = 2**24


def rename(source: Path, view: Path, family: PictureFamily, config: Config) -> None:
    """Give a view of a folder the tensors of its text part by the names that transformers wants.

    Where only the embedding has another name, it is copied; else text part and the rest become
    files of their own, so that what reads the view finds a model of text.

    Args:
        source: the Hugging Face folder.
        view: a folder of links to its files.
        config: the source's config.json.
    """
    tensors = read_checkpoint(source) or {}
    text = text_tensors(config, tensors)
    if family.renamed:
        for file in view.glob("*.safetensors*"):
            file.unlink()
        _write(view / SINGLE, text)
        rest = {name: each for name, each in tensors.items() if not family.text_name(name)}
        _write(view / VISION_FILE, rest)
        return
    if TABLE in tensors or TABLE not in text:
        return
    _write(view / _TABLE_FILE, {TABLE: text[TABLE]})
    index = {name: each.place.file.name for name, each in tensors.items()} | {TABLE: _TABLE_FILE}
    if (view / SINGLE).exists():  # transformers would read that file alone
        (view / SINGLE).rename(view / _SINGLE_FILE)
        index = {name: file.replace(SINGLE, _SINGLE_FILE) for name, file in index.items()}
    (view / INDEX).unlink(missing_ok=True)
    total = sum(each.place.end - each.place.begin for each in tensors.values())
    told = {"metadata": {"total_size": total}, "weight_map": index}
    (view / INDEX).write_bytes(msgspec.json.encode(told))


def _write(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Copy tensors to a safetensors file, piece by piece."""
    header, at = {}, 0
    for name, each in tensors.items():
        size = each.place.end - each.place.begin
        header[name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [at, at + size]}
        at += size
    told = msgspec.json.encode(header)
    with path.open("wb") as out:
        out.write(len(told).to_bytes(8, "little") + told)
        for each in tensors.values():
            with each.place.file.open("rb") as file:
                file.seek(each.place.begin)
                left = each.place.end - each.place.begin
                while left > 0:
                    out.write(piece := file.read(min(left, _PIECE_BYTES)))
                    left -= len(piece)

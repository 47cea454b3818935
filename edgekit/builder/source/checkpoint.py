"""Reads the tensors of a Hugging Face folder as transformers does; refuses files that are missing
or contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from edgekit.builder.source.configfile import read_config
from edgekit.builder.source.safetensors import StoredTensor, read_weight_file
from edgekit.builder.source.values import same_values
from edgekit.builder.support.leftovers import is_leftover
from edgekit.builder.support.limits import Refusal
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
FOREIGN_FILES = ("consolidated", "adapter_model")
"""Beginnings of names of safetensors files that are no part of a model: Mistral's second copy of
the weights, and an adapter."""
_AGAIN = "download it again"


def read_checkpoint(folder: Path) -> dict[str, StoredTensor] | None:
    """The tensors that a build reads, by name; None where `lacking_weights` has the reason.

    As transformers does, it reads `model.safetensors`, else the files that the index names.

    Raises:
        UsageError: a file is cut, too long or missing, or files contradict each other.
    """
    files = {
        path.name: read_weight_file(path)
        for path in sorted(folder.glob("*.safetensors"))
        if path.is_file() and not path.name.startswith(FOREIGN_FILES)
    }
    packed = "quantization_config" in read_config(folder)
    names = read_files(files, _shards(folder, files), packed=packed)
    if not names:
        return None
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        for tensor, stored in files[name].items():
            twin = tensors.setdefault(tensor, stored)
            if twin is not stored and not _equal(twin, stored):
                raise UsageError(
                    f"two weight files have different values for {tensor}",
                    why=f"it is in {twin.place.file.name} and in {name}",
                    next_step="remove the file that does not belong to the model, "
                    "or download the model again",
                )
    return tensors


def read_files(files: Iterable[str], shards: Iterable[str], *, packed: bool = False) -> list[str]:
    """The weight files that transformers reads; none where it would find no model.

    Args:
        files: all safetensors files of the folder.
        shards: those that the index names.
        packed: the checkpoint is quantised; for those the builder reads every file.
    """
    names = sorted(name for name in files if not name.startswith(FOREIGN_FILES))
    if SINGLE in names:
        return [SINGLE]
    return sorted(shards) or (names if packed else [])


def lacking_weights(name: str, files: Iterable[str]) -> Refusal:
    """Why nothing of a folder's weights is read.

    Args:
        name: of the model.
        files: the names of all its files.
    """
    files = list(files)
    weights = sorted(file for file in files if file.endswith((".safetensors", ".pth", ".bin")))
    if own := [file for file in weights if file.startswith("consolidated")]:
        return Refusal(
            f"{name} has no weights that a build reads",
            f"it has them in Mistral's own format alone ({own[0]})",
            "take a repository that has model*.safetensors too; transformers converts the format "
            "(convert_mistral_weights_to_hf.py)",
        )
    if other := [file for file in weights if file.endswith(".safetensors")]:
        return Refusal(
            f"{name} is not complete",
            f"it has {other[0]}, and neither {SINGLE} nor {INDEX}, which says what else belongs "
            "to the model",
            "download the model again, with its index",
        )
    if ggufs := sorted(file for file in files if file.endswith(".gguf")):
        return Refusal(
            f"{name} has no weights that a build reads",
            f"it has no *.safetensors file, but {ggufs[0]}",
            f"give {ggufs[0]} itself with -m",
        )
    return Refusal(
        f"{name} has no weights that a build reads",
        "it has no *.safetensors file",
        "older formats such as pytorch_model.bin have to be converted first",
    )


def adapter_inside(name: str, files: Iterable[str]) -> Refusal | None:
    """Why a folder with an adapter in it is no model, or None.

    transformers would load the adapter into the model, and the builder would lose a part of it.

    Args:
        name: of the model.
        files: the names of all its files.
    """
    there = set(files)
    found = [file for file in ADAPTER_FILES if file in there]
    if not found:
        return None
    if "config.json" not in there:
        return Refusal(
            f"{name} is an adapter, not a model",
            f"it has {found[0]} and no config.json",
            "give its base model with -m, and this folder with -x adapter_path=FOLDER",
        )
    return Refusal(
        f"{name} holds a model and an adapter",
        f"{found[0]} lies beside config.json, and a part of the adapter would be lost",
        "move the adapter_* files into a folder of their own, and give that folder with "
        "-x adapter_path=FOLDER; or remove them",
    )


def _shards(folder: Path, files: Mapping[str, Mapping[str, StoredTensor]]) -> set[str]:
    """The files that the index names; none without an index."""
    index = folder / INDEX
    if not index.is_file():
        return set()
    named = weight_map(index)
    shards = set(named.values())
    if missing := sorted(shards - files.keys()):
        raise UsageError(
            f"{folder.name} is not complete",
            why=f"{missing[0]} is missing ({len(missing)} of {len(shards)} weight files are)",
            next_step="download the model again",
        )
    for tensor, shard in sorted(named.items()):
        if tensor not in files[shard] and not is_leftover(tensor):
            raise UsageError(
                f"{shard} is not the file that {INDEX} describes",
                why=f"it has no tensor {tensor}",
                next_step="download both again; they belong to different versions",
            )
    return shards


def weight_map(index: Path) -> dict[str, str]:
    """The index: tensor -> file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        whole = msgspec.json.decode(index.read_bytes(), type=dict[str, msgspec.Raw])
        return msgspec.json.decode(whole["weight_map"], type=dict[str, str])
    except (*UNREADABLE, KeyError) as error:
        raise UsageError(
            f"{index.name} cannot be read", why=str(error), next_step=_AGAIN
        ) from error


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    return one.shape == other.shape and same_values(
        (one.place, one.dtype), (other.place, other.dtype)
    )

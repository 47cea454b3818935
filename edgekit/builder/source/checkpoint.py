"""Checks that the weight files of a Hugging Face folder are complete. Reads their headers only.

A safetensors file is the header's length (8 bytes, little-endian), the header (JSON), the data;
`data_offsets` count from the start of the data, and the data has no holes:
https://huggingface.co/docs/safetensors/en/index#format
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.errors import UsageError

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The safetensors library refuses longer headers."""
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_AGAIN = "download it again"


class _Tensor(msgspec.Struct):
    """One entry of a header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weight files are cut, too long, or contradict the index.

    Missing shards are not looked for here.

    Raises:
        UsageError: names the file.
    """
    tensors = {
        path.name: check_file(path)
        for path in sorted(folder.glob("*.safetensors"))
        # Mistral's second copy of the weights, which the build does not read
        if not path.name.startswith("consolidated")
    }
    index = folder / INDEX
    if not index.is_file():
        return
    for tensor, shard in sorted(_weight_map(index).items()):
        if shard in tensors and tensor not in tensors[shard]:
            raise UsageError(
                f"{shard} is not the file that {INDEX} describes",
                why=f"it has no tensor {tensor}",
                next_step="download both again; they belong to different versions",
            )


def check_file(path: Path) -> frozenset[str]:
    """The names of a safetensors file's tensors.

    Raises:
        UsageError: its size contradicts its header, or the header cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < _LENGTH_BYTES:
            raise UsageError(
                f"{path.name} is only half there", why=f"it has {size} bytes", next_step=_AGAIN
            )
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            raise UsageError(
                f"{path.name} is not a safetensors file",
                why=f"its header would take {length} bytes",
                next_step=_AGAIN,
            )
        header = file.read(length)
    if size < _LENGTH_BYTES + length:
        raise UsageError(
            f"{path.name} is only half there",
            why=f"it has {size} bytes and ends before its weights begin",
            next_step=_AGAIN,
        )
    entries = _entries(path.name, header)
    expected = (
        _LENGTH_BYTES + length + max((t.data_offsets[1] for t in entries.values()), default=0)
    )
    if size < expected:
        raise UsageError(
            f"{path.name} is only half there",
            why=f"it has {size} of {expected} bytes",
            next_step=_AGAIN,
        )
    if size > expected:
        raise UsageError(
            f"{path.name} is longer than its header says",
            why=f"it has {size} bytes instead of {expected}",
            next_step=_AGAIN,
        )
    return frozenset(entries)


def _entries(name: str, header: bytes) -> dict[str, _Tensor]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return {
            tensor: msgspec.json.decode(value, type=_Tensor)
            for tensor, value in raw.items()
            if tensor != _METADATA
        }
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{name} is not a safetensors file",
            why=f"its header cannot be read: {error}",
            next_step=_AGAIN,
        ) from error


def _weight_map(index: Path) -> dict[str, str]:
    try:
        whole = msgspec.json.decode(index.read_bytes(), type=dict[str, msgspec.Raw])
        return msgspec.json.decode(whole["weight_map"], type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise UsageError(
            f"{index.name} cannot be read", why=str(error), next_step=_AGAIN
        ) from error

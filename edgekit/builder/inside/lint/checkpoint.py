"""The tensors of a source folder, found by what the model builder calls them, and mapped."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.weightfiles import FORMS, Stored, as_float32, stored

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.(.+)$")
_ELSEWHERE = re.compile(r"vision|visual|audio|speech|mtp\.|multi_modal|connector")
_TYPES = {"F32": "float32", "F16": "float16", "F64": "float64", "BF16": "bfloat16"}
# the builder's name -> the names in checkpoints
_NAMES = {
    "o_proj": ("o_proj", "out_proj", "dense"),
    "gate_proj": ("gate_proj", "w1"),
    "up_proj": ("up_proj", "w3"),
    "down_proj": ("down_proj", "w2", "output_linear"),
    "gate_up_proj": ("gate_up_proj", "input_linear"),
    "router": ("router", "gate"),
    "linear_qkv_proj": ("in_proj_qkv",),
    "linear_z_proj": ("in_proj_z",),
    "linear_b_proj": ("in_proj_b",),
    "linear_a_proj": ("in_proj_a",),
    "linear_out_proj": ("out_proj",),
    "q_norm": ("q_norm", "q_layernorm", "query_layernorm"),
    "k_norm": ("k_norm", "k_layernorm", "key_layernorm"),
    "operator_layernorm": ("operator_norm",),
    "ffn_layernorm": ("ffn_norm",),
    "attn": ("self_attn",),
    "moe": ("feed_forward", "mlp", "moe"),
}
_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_WHOLE = {part: whole for whole, parts in _PARTS.items() for part in parts}
_EMBEDDING = r"(embed_tokens|wte|word_embeddings)\.weight$"
_HEAD = r"(lm_head|output_layer)\.weight$"
_LAST_NORM = r"(?:^|\.)(norm|final_layernorm|embedding_norm|ln_f|norm_f)\.%s$"


@dataclass(frozen=True)
class Rows:
    """Rows of a tensor of the checkpoint."""

    name: str
    first: int
    count: int


class CheckpointTensors:
    """The tensors of a folder's safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, Stored] = {}
        self._layers: dict[int, dict[str, str]] = {}
        self._others: list[str] = []
        self._used: set[str] = set()
        for name, at in stored(folder):
            if _ELSEWHERE.search(name):
                continue
            self._where[name] = at
            if match := _LAYER.search(name):
                self._layers.setdefault(int(match[1]), {})[match[2]] = name
            else:
                self._others.append(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._where[name].shape

    def kind(self, name: str) -> str:
        """The element type of a tensor, as in torch."""
        return _TYPES.get(self._where[name].kind, "")

    def stores_head(self) -> bool:
        """Whether a head is stored: transformers takes it, also where config.json ties it."""
        return any(re.search(_HEAD, name) for name in self._others)

    def matrix(
        self, kind: str, layer: int | None, shape: tuple[int, int], tied: bool
    ) -> list[Rows] | None:
        """Where the rows of a matrix stand, one after the other; None where they are not found.

        Args:
            kind: the builder's name, such as `qkv_proj`, `embed_tokens` or `lm_head`.
            shape: (outputs, inputs).
            tied: the head is the embedding.
        """
        if layer is None:
            found = self._table(kind, tied)
            whole = [found] if found else []
        else:
            one = self._in_layer(layer, kind, "weight")
            whole = [one] if one else self._all(layer, _PARTS.get(kind, ()))
        if any(not self.kind(name) for name in whole):
            return None  # FP8 and the like, which have scales of their own
        sizes = [self.shape(name) for name in whole]
        if whole and all(len(s) == 2 and s[1] == shape[1] for s in sizes):
            if sum(s[0] for s in sizes) == shape[0]:
                self._used.update(whole)
                return [Rows(n, 0, s[0]) for n, s in zip(whole, sizes, strict=True)]
            return None
        return self._of_joined(kind, layer, shape)

    def _table(self, kind: str, tied: bool) -> str | None:
        heads = [n for n in self._others if re.search(_HEAD, n)]
        tables = [n for n in self._others if re.search(_EMBEDDING, n)]
        if kind == "lm_head" and heads and not tied:
            return heads[0]
        if kind in ("lm_head", "embed_tokens"):
            return next(iter(tables or heads), None)
        return None

    def _of_joined(self, kind: str, layer: int | None, shape: tuple[int, int]) -> list[Rows] | None:
        joined = _WHOLE.get(kind)
        if joined is None or layer is None:
            return None
        name = self._in_layer(layer, joined, "weight")
        if name is None or not self.kind(name) or self.shape(name)[1:] != shape[1:]:
            return None
        parts = _PARTS[joined]
        from_end = len(parts) - parts.index(kind)
        # all parts after the first are equally long
        first = 0 if from_end == len(parts) else self.shape(name)[0] - from_end * shape[0]
        if first < 0:
            return None
        self._used.add(name)
        return [Rows(name, first, shape[0])]

    def _all(self, layer: int, kinds: tuple[str, ...]) -> list[str]:
        found = [self._in_layer(layer, kind, "weight") for kind in kinds]
        return [name for name in found if name] if all(found) else []

    def _in_layer(self, layer: int, kind: str, last: str) -> str | None:
        names = self._layers.get(layer, {})
        for known in _NAMES.get(kind, (kind,)):
            end = f"{known}.{last}"
            fitting = [n for rest, n in names.items() if rest == end or rest.endswith("." + end)]
            # beside many experts, the one that all tokens use is part of the graph's own nodes
            shared = [name for name in fitting if "shared_expert" in name]
            for names_of in (fitting, shared):
                if len(names_of) == 1:
                    return names_of[0]
        return None

    def vector(self, kind: str, layer: int | None, last: str, length: int) -> np.ndarray | None:
        """A norm's weight or a bias as float32; None where there is none of that length.

        Args:
            kind: the builder's name, such as `input_layernorm` or `qkv_proj`.
            layer: None for the last norm and the head.
            last: `weight` or `bias`.
        """
        if layer is None:
            wanted = _HEAD.replace("weight", last) if kind == "lm_head" else _LAST_NORM % last
            names = [n for n in self._others if re.search(wanted, n)][:1]
        else:
            one = self._in_layer(layer, kind, last)
            parts = [self._in_layer(layer, part, last) for part in _PARTS.get(kind, ())]
            names = [one] if one else [part for part in parts if part]
        if not names or any(not self.kind(name) for name in names):
            return None
        values = np.concatenate([self.values(name).reshape(-1) for name in names])
        if len(values) != length:
            return None
        self._used.update(names)
        return values

    def unused(self, layers: int, known: set[str]) -> list[str]:
        """Tensors of the first layers that were not asked for.

        Args:
            known: names within a layer; transformers ignores the others, too.
        """
        return [
            name
            for layer, names in sorted(self._layers.items())
            for rest, name in names.items()
            if layer < layers and rest in known and name not in self._used
        ]

    def rows(self, places: list[Rows], chosen: slice) -> np.ndarray:
        """Some rows of the rows that stand one after the other, as float32."""
        out, before = [], 0
        for place in places:
            first = max(chosen.start - before, 0)
            last = min(chosen.stop - before, place.count)
            if first < last:
                out.append(self.values(place.name, slice(place.first + first, place.first + last)))
            before += place.count
        return out[0] if len(out) == 1 else np.concatenate(out)

    def values(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A tensor of floats, or some of its rows, as float32."""
        at = self._where[name]
        mapped = np.memmap(at.path, FORMS[at.kind], "r", offset=at.start, shape=at.shape)[rows]
        return as_float32(mapped, at.kind)

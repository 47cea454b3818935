"""The shape of a model, from config.json and the headers of its weight files. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgekit.builder.plan.tensors import (
    EMBEDDINGS,
    FOREIGN,
    HEAD,
    HEADS,
    LAYER,
    MatrixShape,
    Tensor,
    from_config,
    from_headers,
    is_decoder,
)
from edgekit.builder.support.families import is_tied, says_tied
from edgekit.builder.support.modelconfig import architecture_of, language_part
from edgekit.builder.support.rotary import HEAD_WIDTHS
from edgekit.errors import UsageError

_KV_LAYERS = frozenset({"full_attention", "sliding_attention"})

# The config.json of these omits values that are defaults of the class (transformers 5.23).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Gemma3ForConditionalGeneration": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
    "Phi3ForCausalLM": {"original_max_position_embeddings": 4096},
}  # fmt: skip


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of a model that a plan needs.

    Attributes:
        architecture: `architectures[0]`, or empty.
        layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, context: as in
            config.json; context in tokens.
        kv_layers: number of layers that keep keys and values.
        sliding: some layers keep keys and values for a window only.
        tied: embedding and head are one matrix.
        rope_dim: width of the rotary tables.
        rope_tables: number of pairs (cosine and sine) of tables with `context` rows.
        short_context: original context of LongRoPE, which has tables of its own; else 0.
        experts, active_experts: number of experts, and of those that a token reads; 0 without.
        matrices: of the decoder and the head; the head is the last.
        embedding: number of elements of the embedding.
        other: number of elements that are neither in a matrix nor in the embedding.
        qkv: number of elements of the query, key and value matrices.
        stored_bytes: size of the decoder's tensors in the checkpoint.
        from_headers: the matrices come from the headers; else they follow from config.json.
    """

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    kv_layers: int
    sliding: bool
    tied: bool
    rope_dim: int
    rope_tables: int
    short_context: int
    experts: int
    active_experts: int
    matrices: tuple[MatrixShape, ...]
    embedding: int
    other: int
    qkv: int
    stored_bytes: int
    from_headers: bool

    @property
    def parameters(self) -> int:
        """Number of the decoder's weights; a tied head counts once."""
        tied = self.embedding if self.tied else 0
        return sum(each.elements for each in self.matrices) + self.embedding + self.other - tied

    @property
    def largest(self) -> int:
        """Number of elements of the largest tensor."""
        return max(self.embedding, *(each.elements for each in self.matrices))


def shape_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, layers: int | None = None
) -> ModelShape:
    """The shape of a model.

    Args:
        config: config.json that passed `check_config`.
        tensors: of the weight files; empty where no headers can be read.
        layers: number of layers to build (the option `num_hidden_layers`); None builds all.

    Raises:
        UsageError: neither config.json nor the headers give a needed dimension.
    """
    text = _text(config)
    counted = _Config(text, tensors)
    count = layers or counted.layers
    hidden, heads, head_dim = counted.hidden, counted.heads, counted.head_dim
    vocabulary = counted.vocabulary
    tied = _tied(config, tensors)
    readable = bool(tensors) and not isinstance(config.get("quantization_config"), dict)
    weights = _from_headers(tensors, count) if readable else _from_config(counted, tensors, count)
    embedding = weights.embedding or vocabulary * hidden
    head = [each for each in weights.matrices if each.node == HEAD and not tied]
    matrices = (
        *(each for each in weights.matrices if each.node != HEAD),
        head[0] if head else MatrixShape(HEAD, vocabulary, hidden),
    )
    if not any(each.elements for each in matrices):
        raise UsageError(
            "the model's matrices hold no values",
            why="the headers of the weight files give each a dimension of 0",
            next_step="download the model again",
        )
    total = sum(each.elements for each in matrices) + weights.other + (0 if tied else embedding)
    context = counted.number("seq_length", "max_position_embeddings", "n_positions")
    kinds = list(text.get("layer_types") or ["full_attention"] * count)[:count]
    window = counted.number("sliding_window")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    partial = text.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
    return ModelShape(
        architecture=text["architecture"],
        layers=count,
        hidden=hidden,
        intermediate=counted.intermediate,
        heads=heads,
        kv_heads=counted.kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=context or _missing("max_position_embeddings"),
        kv_layers=sum(kind in _KV_LAYERS for kind in kinds),
        sliding="sliding_attention" in kinds or 0 < window < context,
        tied=tied,
        rope_dim=int(head_dim * float(partial)),
        rope_tables=2 if str(text["architecture"]).startswith("Gemma3") else 1,
        short_context=_short_context(counted, rope, context),
        experts=counted.experts,
        active_experts=counted.number("num_experts_per_tok", "experts_per_token", "top_k_experts"),
        matrices=matrices,
        embedding=embedding,
        other=weights.other,
        qkv=sum(m.elements for m in matrices if m.node.endswith("/attn/qkv_proj/MatMul")),
        stored_bytes=weights.stored_bytes
        or 2 * total,  # without headers: most models are published in 16 bits
        from_headers=readable,
    )


class _Weights(msgspec.Struct, frozen=True):
    """The graph's matrices, the elements of the embedding (0: unknown) and of all other tensors,
    and the bytes of the checkpoint."""

    matrices: tuple[MatrixShape, ...]
    embedding: int
    other: int
    stored_bytes: int


def _from_headers(tensors: Mapping[str, Tensor], layers: int) -> _Weights:
    decoder = {name: t for name, t in tensors.items() if is_decoder(name, layers)}
    matrices, embedding, other = from_headers(decoder)
    return _Weights(matrices, embedding, other, sum(tensor.size for tensor in decoder.values()))


def _from_config(counted: _Config, tensors: Mapping[str, Tensor], layers: int) -> _Weights:
    hidden = counted.hidden
    width = counted.number("moe_intermediate_size") or counted.intermediate
    width = width or _missing("intermediate_size")
    attention = (counted.heads, counted.kv_heads, counted.head_dim)
    return _Weights(
        from_config(layers, hidden, width, attention, counted.experts),
        counted.vocabulary * hidden,
        hidden * (2 * layers + 1),
        sum(tensor.size for tensor in tensors.values()),
    )


def _short_context(counted: _Config, rope: Mapping[str, Any], context: int) -> int:
    """The length up to which LongRoPE uses its short factors; 0 without LongRoPE."""
    short = counted.number("original_max_position_embeddings") or _whole(
        rope.get("original_max_position_embeddings")
    )
    long_rope = (rope.get("rope_type") or rope.get("type")) in ("longrope", "su", "yarn_su")
    return short if long_rope and short != context else 0


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of config.json, completed by the class's defaults."""
    architecture = architecture_of(config)
    width = {"head_dim": HEAD_WIDTHS[architecture]} if architecture in HEAD_WIDTHS else {}
    return {
        **width,
        **_DEFAULTS.get(architecture, {}),
        **language_part(config),
        "architecture": architecture,
    }


class _Config:
    """Looks up a dimension under the names that model families use, else in the headers."""

    def __init__(self, text: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._text = text
        self._tensors = tensors

    def number(self, *names: str) -> int:
        """The first positive value under these names, else 0."""
        return next((n for name in names if (n := _whole(self._text.get(name)))), 0)

    @property
    def layers(self) -> int:
        found = (LAYER.search(n) for n in self._tensors if not FOREIGN.search(n))
        counted = max((int(match[1]) + 1 for match in found if match), default=0)
        given = self.number("num_hidden_layers", "num_layers", "n_layer")
        return given or counted or _missing("num_hidden_layers")

    @property
    def hidden(self) -> int:
        table = self._embedding()
        given = self.number("hidden_size", "n_embd", "d_model")
        return given or (table.shape[1] if table else 0) or _missing("hidden_size")

    @property
    def vocabulary(self) -> int:
        table = self._embedding()
        given = self.number("vocab_size", "padded_vocab_size")
        return given or (table.shape[0] if table else 0) or _missing("vocab_size")

    @property
    def heads(self) -> int:
        return self.number("num_attention_heads", "n_head") or _missing("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        return self.number("num_key_value_heads", "multi_query_group_num") or self.heads

    @property
    def intermediate(self) -> int:
        """Width of the MLP; 0 where config.json does not give it."""
        return self.number("ffn_hidden_size", "intermediate_size", "ff_intermediate_size")

    @property
    def experts(self) -> int:
        return self.number("num_local_experts", "num_experts", "n_routed_experts")

    @property
    def head_dim(self) -> int:
        return self.number("head_dim", "kv_channels") or self.hidden // self.heads

    def _embedding(self) -> Tensor | None:
        tables = (t for name, t in self._tensors.items() if name.endswith(EMBEDDINGS))
        return next((table for table in tables if len(table.shape) == 2), None)


def _tied(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Where config.json is silent, a head that is stored is told as one of its own (`own_head`)."""
    if says_tied(config) is not None or not tensors:
        return is_tied(config)
    return not any(name.endswith(HEADS) or name == "output.weight" for name in tensors)


def _whole(value: object) -> int:
    """A positive whole number, or 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _missing(name: str) -> int:
    raise UsageError(
        f"config.json does not say {name}",
        why="without it the size of the model is not known",
        next_step="take the config.json of the original model",
    )

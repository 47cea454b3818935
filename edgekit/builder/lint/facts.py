"""The facts about a built model folder that `inside/inspect_model.py` reports. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["matmul", "embedding", "experts"]


class MatrixFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Format and statistics of one matrix of the graph.

    Attributes:
        name: name of the model builder's node, without the quantiser's suffix.
        kind: operand of a multiplication, table of an embedding, or weights of experts.
        bits: per weight; 0 when it is not quantised.
        method: the quantiser: `blockwise` (the builder's `default`), `grouped` (`rtn`,
            `k_quant`), `checkpoint` (the source itself) or `unknown`.
        dtype: element type of a matrix that is not quantised.
        qdq: DequantizeLinear before a MatMul, instead of one operator.
        shared: an embedding that uses the head's bytes.
        n, k: number of outputs and of inputs, where the graph gives them.
        bytes: size of the weight itself, without scales.
        blocks, constant_blocks: number of blocks, and of those with one value throughout.
        scales, zero_scales: number of scales, and of those that are 0.
        bad_values: number of NaN and infinite scales, or weights if it is not quantised.
    """

    name: str
    kind: Kind
    bits: int
    block_size: int | None = None
    accuracy_level: int | None = None
    zero_points: bool = False
    method: str = ""
    dtype: str = ""
    qdq: bool = False
    shared: bool = False
    n: int | None = None
    k: int | None = None
    bytes: int = 0
    blocks: int = 0
    constant_blocks: int = 0
    scales: int = 0
    zero_scales: int = 0
    bad_values: int = 0


class GraphFacts(msgspec.Struct, frozen=True):
    """The facts about the graph; `broken` describes missing connections that prevent loading."""

    producer: str
    producer_version: str
    opsets: dict[str, int]
    nodes: int
    cache_types: tuple[str, ...]
    cache_layers: int
    logits_width: int | None
    broken: tuple[str, ...]


class DataFile(msgspec.Struct, frozen=True):
    """A file of external data.

    Attributes:
        size: in bytes; None when the file is missing.
        referenced_end: end of the last tensor, in bytes.
        holes: (offset, length) of bytes that belong to no tensor.
        overlaps: pairs of tensors that share some of their bytes, but not all.
        cut: tensors that end beyond the end of the file.
    """

    name: str
    size: int | None
    referenced_end: int
    holes: tuple[tuple[int, int], ...]
    unreferenced_bytes: int
    overlaps: tuple[tuple[str, str], ...]
    cut: tuple[str, ...]


class OutsideTensor(msgspec.Struct, frozen=True):
    """A tensor whose location leads out of the model's folder."""

    tensor: str
    location: str


class DataFacts(msgspec.Struct, frozen=True):
    """Locations of the tensors; `wrong_length` lists those whose length contradicts their shape."""

    files: tuple[DataFile, ...]
    outside: tuple[OutsideTensor, ...]
    wrong_length: tuple[str, ...]
    inline: int


class ConfigFacts(msgspec.Struct, frozen=True):
    """The fields of genai_config.json; token ids are lists, empty for null.

    `window` is that of the layers that have one, in tokens; else 0.
    """

    type: str | None
    context_length: int | None
    vocabulary: int | None
    bos: tuple[int, ...]
    eos: tuple[int, ...]
    pad: tuple[int, ...]
    filename: str | None
    head_size: int | None
    hidden_size: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    max_length: int | None
    providers: tuple[str, ...]
    threads: int | None
    window: int = 0


class AddedToken(msgspec.Struct, frozen=True):
    """An added token of the tokenizer; `used`: text or the chat template can produce it."""

    id: int
    content: str
    used: bool


class TokenizerFacts(msgspec.Struct, frozen=True):
    """tokenizer.json compared with genai_config.json.

    Attributes:
        words_beyond: number of words whose id is beyond the model's rows.
        added_beyond: added tokens whose id is beyond the model's rows.
        unknown: `bos`, `eos`, `pad` -> ids that the tokenizer does not have.
    """

    tokens: int
    highest_id: int
    words_beyond: int
    added_beyond: tuple[AddedToken, ...]
    unknown: dict[str, tuple[int, ...]]


class PartFacts(msgspec.Struct, frozen=True):
    """A further graph that the configuration names; all empty where it cannot be read.

    Attributes:
        broken: missing connections that prevent loading.
        not_finite: (tensor, number of NaN and infinite values).
        bits: of its quantised matrices.
    """

    broken: tuple[str, ...] = ()
    not_finite: tuple[tuple[str, int], ...] = ()
    data: DataFacts | None = None
    bits: tuple[int, ...] = ()


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All facts about a model folder.

    Attributes:
        files: name -> size of every file.
        unreadable: name of a present file -> why it could not be read.
        not_finite: (tensor, number of NaN and infinite values), matrices left out.
        parts: file name -> graph of a part that sees, or embeds.
    """

    graph: GraphFacts | None
    matrices: tuple[MatrixFacts, ...]
    not_finite: tuple[tuple[str, int], ...]
    data: DataFacts | None
    files: dict[str, int]
    graph_name: str
    config: ConfigFacts | None
    tokenizer: TokenizerFacts | None
    has_template: bool
    unreadable: dict[str, str]
    parts: dict[str, PartFacts] = {}


def facts_of(result: dict[str, Any]) -> FolderFacts:
    """The facts from the script's result event.

    Raises:
        msgspec.ValidationError: the event has an unexpected form.
    """
    return msgspec.convert(result, FolderFacts)

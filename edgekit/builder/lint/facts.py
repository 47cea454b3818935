"""What `inside/inspect_model.py` reports of a built model folder, as values. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["matmul", "embedding", "experts"]


class MatrixFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix of the graph.

    Attributes:
        name: of the node that the model builder made, without what the quantiser added to it.
        kind: it multiplies, is looked up in, or holds experts.
        bits: of a weight; 0 when it is not quantised.
        method: by whom: `blockwise` (the builder's `default`), `grouped` (`rtn`, `k_quant`),
            `checkpoint` or `unknown`.
        dtype: of a matrix that is not quantised.
        qdq: DequantizeLinear before a MatMul, not one operator.
        shared: an embedding that uses the head's bytes.
        n, k: rows of the output and of the input, where the graph says so.
        bytes: of the weight itself, scales left out.
        blocks, constant_blocks: blocks, and those in which every value is the same.
        scales, zero_scales: scales, and those that are 0.
        bad_values: NaN and infinite scales; of a matrix that is not quantised, such weights.
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
    """The graph; `broken` has the loose ends that keep it from being loaded, in words."""

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
        size: None when there is no such file.
        referenced_end: end of the last tensor.
        holes: (offset, length) of bytes that belong to no tensor.
        overlaps: pairs of tensors that share some bytes and not all.
        cut: tensors that go on after the file's end.
    """

    name: str
    size: int | None
    referenced_end: int
    holes: tuple[tuple[int, int], ...]
    unreferenced_bytes: int
    overlaps: tuple[tuple[str, str], ...]
    cut: tuple[str, ...]


class OutsideTensor(msgspec.Struct, frozen=True):
    """A tensor whose bytes are said to lie outside the folder."""

    tensor: str
    location: str


class DataFacts(msgspec.Struct, frozen=True):
    """Where the tensors lie; `wrong_length` has those whose length is not that of their shape."""

    files: tuple[DataFile, ...]
    outside: tuple[OutsideTensor, ...]
    wrong_length: tuple[str, ...]
    inline: int


class ConfigFacts(msgspec.Struct, frozen=True):
    """genai_config.json; token ids are lists, empty for null."""

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


class AddedToken(msgspec.Struct, frozen=True):
    """A token beside the vocabulary; `used`: text or the chat template can bring it about."""

    id: int
    content: str
    used: bool


class TokenizerFacts(msgspec.Struct, frozen=True):
    """tokenizer.json against genai_config.json.

    Attributes:
        words_beyond: words whose id the model has no row for.
        added_beyond: added tokens of that kind.
        unknown: `bos`, `eos`, `pad` -> ids that the tokenizer does not have.
    """

    tokens: int
    highest_id: int
    words_beyond: int
    added_beyond: tuple[AddedToken, ...]
    unknown: dict[str, tuple[int, ...]]


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model folder.

    Attributes:
        files: name -> size of every file.
        unreadable: name -> why, for files that are there.
        not_finite: tensors besides the matrices that hold NaN or infinite values, and how many.
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


def facts_of(result: dict[str, Any]) -> FolderFacts:
    """The facts out of the script's result event.

    Raises:
        msgspec.ValidationError: the event has another form.
    """
    return msgspec.convert(result, FolderFacts)

"""Checks that the matrices are quantised as requested, and that their values are sound. Pure.

The rules are those of the locked builder; `asked.py` cites them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from edgekit.builder.lint.facts import FolderFacts, MatrixFacts
from edgekit.builder.lint.finding import Finding, listed, refuse, warn
from edgekit.builder.request.asked import Asked

EMBEDDING = "/model/embed_tokens/"
MOSTLY_CONSTANT = 0.5
"""From this share of blocks with one value throughout, a matrix counts as zeroed."""
SOME_CONSTANT = 0.02
"""From this share on the lint warns: rows of unused tokens are often 0, a few blocks are chance."""

_LAYER = re.compile(r"/layers\.(\d+)/")
_MADE_BY = {"default": "blockwise", "rtn": "grouped", "k_quant": "grouped"}
# a float matrix narrower than this fraction of the hidden size is a router or a gate, which the
# builder does not quantise on purpose
_NARROW = 8


def weights(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    """All findings about matrices.

    Args:
        facts: of a folder with a readable graph.
        asked: the required properties.
    """
    yield from _sound(facts)
    yield from _layers(facts, asked)
    matmuls = [m for m in facts.matrices if m.kind == "matmul"]
    quantised = [m for m in matmuls if m.bits]
    if asked.checkpoint:
        yield from _checkpoint(quantised, asked)
    if asked.bits == 0:
        yield from _float(facts, asked)
        return
    if "MatMul" in asked.op_types and not quantised:
        yield refuse("bits", "no matrix is quantised", "all", f"{asked.bits} bits", "none")
        return
    ours = [m for m in quantised if m.method != "checkpoint"]
    yield from _bits(ours, asked, facts)
    yield from _form(ours, asked)
    yield from _accuracy(quantised, asked)
    yield from _left_float(matmuls, asked, facts)
    yield from _embedding(facts, asked)
    yield from _experts(facts, asked)


def _sound(facts: FolderFacts) -> Iterator[Finding]:
    matrices = [m for m in facts.matrices if not m.shared]  # count the head's bytes once
    bad = [m for m in matrices if m.bits and m.bad_values]
    if bad:
        yield refuse(
            "scales-not-finite", "scales are NaN or infinite", _names(bad), "0",
            str(sum(m.bad_values for m in bad)),
        )  # fmt: skip
    loose = [(m.name, m.bad_values) for m in matrices if not m.bits and m.bad_values]
    if rest := [*loose, *facts.not_finite]:
        yield refuse(
            "weights-not-finite", "weights are NaN or infinite",
            listed([name for name, _ in rest]), "0", str(sum(count for _, count in rest)),
        )  # fmt: skip
    shares = [(m, _constant(m)) for m in matrices]
    if dead := [m for m, share in shares if share >= MOSTLY_CONSTANT]:
        yield refuse(
            "zero-weights", "matrices are zero or one value throughout", _names(dead),
            f"less than {MOSTLY_CONSTANT:.0%} of the blocks", f"{max(map(_constant, dead)):.0%}",
        )  # fmt: skip
    if some := [m for m, share in shares if SOME_CONSTANT < share < MOSTLY_CONSTANT]:
        yield warn(
            "zero-weights", "matrices have blocks that are one value throughout", _names(some),
            f"at most {SOME_CONSTANT:.0%}", f"{max(map(_constant, some)):.0%}",
        )  # fmt: skip


def _constant(matrix: MatrixFacts) -> float:
    by_weight = matrix.constant_blocks / matrix.blocks if matrix.blocks else 0.0
    by_scale = matrix.zero_scales / matrix.scales if matrix.scales else 0.0
    return max(by_weight, by_scale)


def _layers(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    layers = asked.layers or (facts.config.layers if facts.config else None)
    seen = {int(match[1]) for m in facts.matrices if (match := _LAYER.search(m.name))}
    if layers and seen and seen != set(range(layers)):
        missing = sorted(set(range(layers)) ^ seen)
        yield refuse(
            "layers", "layers of the graph are missing or too many",
            listed([str(i) for i in missing]), str(layers), str(len(seen)),
        )  # fmt: skip


def _float(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    dense = [m for m in facts.matrices if m.kind != "experts"]
    if asked.checkpoint is None and (odd := [m for m in dense if m.bits]):
        yield refuse("bits", "matrices are quantised", _names(odd), asked.precision, _bits_of(odd))
    if odd := [m for m in dense if not m.bits and m.dtype != asked.io_type]:
        yield refuse(
            "bits", "matrices have another type", _names(odd), asked.io_type, _few(odd, "dtype")
        )


def _bits(matrices: Sequence[MatrixFacts], asked: Asked, facts: FolderFacts) -> Iterator[Finding]:
    layers = asked.layers or (facts.config.layers if facts.config else None) or 0
    placed = asked.placed([m.name for m in matrices], layers)
    ignored = set()
    for group, bits in asked.placement.items():
        inside = [m for m in matrices if placed.get(m.name) == group]
        if inside and any(m.bits == bits for m in inside):
            continue
        ignored.add(group)
        option = asked.placed_by[group]
        # a model without linear attention has nothing to place
        make = warn if group == "linear_attn" and not inside else refuse
        yield make(
            "option-ignored", f"the option {option} was silently ignored: {group} is not int{bits}",
            _names(inside) or group, f"{bits} bits", _bits_of(inside) or "no such matrix",
        )  # fmt: skip

    def expected(matrix: MatrixFacts) -> int:
        group = placed.get(matrix.name)
        return asked.placement[group] if group else asked.bits

    wrong = [m for m in matrices if placed.get(m.name) not in ignored and m.bits != expected(m)]
    if wrong:
        wanted = sorted({expected(m) for m in wrong})
        yield refuse(
            "bits", "matrices have another number of bits", _names(wrong),
            " or ".join(map(str, wanted)), _bits_of(wrong),
        )  # fmt: skip


def _form(matrices: Sequence[MatrixFacts], asked: Asked) -> Iterator[Finding]:
    if odd := [m for m in matrices if m.block_size != asked.block_size]:
        yield refuse(
            "block-size", "matrices have another block size", _names(odd), str(asked.block_size),
            _few(odd, "block_size"),
        )  # fmt: skip
    # k_quant is asymmetric whatever is_symmetric says
    wanted = asked.method == "k_quant" or not asked.symmetric
    if odd := [m for m in matrices if m.zero_points != wanted]:
        yield refuse(
            "zero-points", "matrices have another symmetry than requested", _names(odd),
            _zero_points(wanted), _zero_points(not wanted),
        )  # fmt: skip
    if asked.method == "k_quant" and asked.given.get("is_symmetric") == "true":
        yield _ignored("is_symmetric", "no zero points", "zero points, as k_quant has always", warn)
    made_by = _MADE_BY.get(asked.method)
    if odd := [m for m in matrices if m.method != made_by]:
        yield refuse(
            "option-ignored", f"the option algo_config={asked.method} was silently ignored",
            _names(odd), asked.method, "the default method" if made_by == "grouped" else "another",
        )  # fmt: skip
    if matrices and asked.qdq and not all(m.qdq for m in matrices):
        yield _ignored("use_qdq", "DequantizeLinear before MatMul", "MatMulNBits", refuse)
    if not asked.qdq and any(m.qdq for m in matrices):
        yield refuse("option-ignored", "the graph is QDQ, which was not requested", "use_qdq",
                     "MatMulNBits", "DequantizeLinear before MatMul")  # fmt: skip
    for name in asked.excluded:
        if any(m.name == name for m in matrices):
            yield _ignored("nodes_to_exclude", f"{name} as float", "quantised", refuse)


def _accuracy(matrices: Sequence[MatrixFacts], asked: Asked) -> Iterator[Finding]:
    given = [m for m in matrices if m.accuracy_level is not None]
    if odd := [m for m in given if m.accuracy_level != asked.accuracy_level]:
        yield refuse(
            "accuracy-level", "matrices multiply at another accuracy level", _names(odd),
            str(asked.accuracy_level), _few(odd, "accuracy_level"),
        )  # fmt: skip


def _left_float(
    matmuls: Sequence[MatrixFacts], asked: Asked, facts: FolderFacts
) -> Iterator[Finding]:
    names = {m.name for m in facts.matrices}
    if unknown := [name for name in asked.excluded if name not in names]:
        yield refuse(
            "option-ignored", "the option nodes_to_exclude names nodes that there are not",
            listed(unknown), "a matrix of the graph", "none",
        )  # fmt: skip
    if "MatMul" not in asked.op_types:
        return
    hidden = (facts.config.hidden_size if facts.config else None) or 0
    large = [
        m
        for m in matmuls
        if not m.bits
        and m.name not in asked.excluded
        and min(m.n or 0, m.k or 0) * _NARROW >= hidden
    ]
    if large and asked.checkpoint:
        yield warn("float-matrix", "the checkpoint left matrices as float", _names(large),
                   f"{asked.bits} bits", _size(large))  # fmt: skip
    elif large:
        yield refuse("float-matrix", "large matrices were left as float", _names(large),
                     f"{asked.bits} bits", _size(large))  # fmt: skip


def _embedding(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    tables = [m for m in facts.matrices if m.kind == "embedding" and m.name.startswith(EMBEDDING)]
    whole = [m for m in tables if not m.bits and not m.shared]
    if not whole:
        return
    if asked.given.get("shared_embeddings") == "true":
        yield _ignored("shared_embeddings", "the head's bytes", "a table of its own", refuse)
    asked_types = asked.given.get("op_types_to_quantize", "")
    if "Gather" in asked_types.split("/") and not set(asked.excluded) & {m.name for m in whole}:
        yield _ignored("op_types_to_quantize", "a quantised embedding", whole[0].dtype, refuse)
    # for a model whose head is another matrix, the builder makes no quantised embedding
    yield warn(
        "float-embedding", "the embedding is not quantised", _names(whole),
        f"{asked.bits} bits", f"{whole[0].dtype}, {_size(whole)}",
    )  # fmt: skip


def _experts(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    experts = [m for m in facts.matrices if m.kind == "experts"]
    if asked.checkpoint is not None or not asked.expert_bits:
        return
    if odd := [m for m in experts if m.bits != asked.expert_bits]:
        yield refuse("bits", "experts have another number of bits", _names(odd),
                     str(asked.expert_bits), _bits_of(odd))  # fmt: skip
    # without the attribute a scale covers a whole row; a block size of 0 requests that
    wanted = asked.expert_block if asked.expert_block > 0 else None
    if odd := [m for m in experts if m.block_size != wanted]:
        yield refuse("block-size", "experts have another block size", _names(odd),
                     str(wanted or "a row"), _few(odd, "block_size"))  # fmt: skip


def _checkpoint(matrices: Sequence[MatrixFacts], asked: Asked) -> Iterator[Finding]:
    source = asked.checkpoint
    assert source is not None
    kept = [m for m in matrices if m.method == "checkpoint"]
    if not kept:
        yield refuse(
            "checkpoint-ignored", f"no matrix comes from the {source.method} checkpoint",
            "all", "the checkpoint's own weights", "the builder's",
        )  # fmt: skip
    rules: tuple[tuple[str, frozenset[int], Callable[[MatrixFacts], int | None]], ...] = (
        ("bits", source.bits, lambda m: m.bits),
        ("block-size", source.block_size, lambda m: m.block_size),
    )
    for name, allowed, value in rules:
        if allowed and (odd := [m for m in kept if value(m) not in allowed]):
            yield refuse(
                name, "matrices are not in the checkpoint's own form", _names(odd),
                " or ".join(map(str, sorted(allowed))),
                " and ".join(sorted({str(value(m)) for m in odd})),
            )  # fmt: skip


def _ignored(
    option: str, expected: str, found: str, make: Callable[[str, str, str, str, str], Finding]
) -> Finding:
    return make(
        "option-ignored", f"the option {option} was silently ignored", option, expected, found
    )


def _names(matrices: Sequence[MatrixFacts]) -> str:
    return listed([m.name for m in matrices])


def _few(matrices: Sequence[MatrixFacts], field: str) -> str:
    return " and ".join(sorted({str(getattr(m, field)) for m in matrices}))


def _bits_of(matrices: Sequence[MatrixFacts]) -> str:
    return " and ".join(f"{bits} bits" for bits in sorted({m.bits for m in matrices}))


def _zero_points(present: bool) -> str:
    return "zero points" if present else "no zero points"


def _size(matrices: Sequence[MatrixFacts]) -> str:
    return f"{sum(m.bytes for m in matrices) / 1e6:.1f} MB"

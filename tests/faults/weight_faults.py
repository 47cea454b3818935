"""Faults of rotary tables, norms, blocks and rows."""

from __future__ import annotations

import numpy as np

from tests.faults.built import Built, fault, onnx


@fault("rotary-tables")
def last_rotary_rows(built: Built) -> None:
    built.array("cos_cache")[-100:] = 1.0


@fault("rotary-tables")
def one_rotary_sine(built: Built) -> None:
    built.array("sin_cache")[301, 3] *= -1


@fault("rotary-tables")
def rotary_rows_shifted(built: Built) -> None:
    table = built.array("cos_cache")
    table[257:] = np.array(table[256:-1])


@fault("rotary-tables", "gemma3")
def table_of_the_other_layers(built: Built) -> None:
    for node in built.attentions():
        for place, name in ((7, "cos_cache_local"), (8, "sin_cache_local")):
            node.input[place] = name


@fault("rotary-tables", "phi3")
def row_of_the_long_table(built: Built) -> None:
    tensors = [
        attribute.t
        for node in built.nodes("If")
        for branch in node.attribute
        if branch.name == "then_branch"
        for inner in branch.g.node
        for attribute in inner.attribute
        if attribute.name == "value"
    ]
    tensor = tensors[0]
    where = {entry.key: entry.value for entry in tensor.external_data}
    if where:
        table = np.memmap(
            built.folder / where["location"], "<f4", "r+", offset=int(where["offset"]),
            shape=tuple(tensor.dims),
        )  # fmt: skip
        table[300, 2] += 0.1
    else:
        changed = np.array(onnx.numpy_helper.to_array(tensor))
        changed[300, 2] += 0.1
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))


@fault("norm-weights", "gemma3")
def norm_without_its_one(built: Built) -> None:
    built.array("model.layers.1.attn.q_norm.layernorm.weight")[:] -= 1


@fault("norm-weights")
def one_norm_value(built: Built) -> None:
    built.array("model.layers.1.input_layernorm.weight")[5] *= 1.02


@fault("norm-weights")
def last_norm(built: Built) -> None:
    name = next(n for n in built.tensors if n.endswith("final_norm_layernorm.weight"))
    built.array(name)[:] *= 1.05


@fault("norm-weights")
def all_norms(built: Built) -> None:
    for name in built.tensors:
        if name.endswith("post_attention_layernorm.weight"):
            built.array(name)[:] *= 1.01


@fault("norm-epsilon")
def epsilons(built: Built) -> None:
    for node in built.nodes("SkipSimplifiedLayerNormalization"):
        built.set(node, "epsilon", 1e-3)


@fault("weight-blocks")
def one_block_of_scales(built: Built) -> None:
    built.parts()[1].reshape(-1)[7] = 0


@fault("weight-blocks")
def one_scale_larger(built: Built) -> None:
    built.parts()[1].reshape(-1)[7] *= 1.3


@fault("weight-blocks")
def shifted_region(built: Built) -> None:
    values = built.parts()[0].reshape(-1)
    values[64:128] = (values[64:128] >> 4) | (values[64:128] << 4)


@fault("weight-blocks")
def scales_of_two_blocks_exchanged(built: Built) -> None:
    scales = built.parts()[1].reshape(-1)
    scales[[0, 5]] = scales[[5, 0]]


@fault("token-rows")
def two_rows_of_the_head(built: Built) -> None:
    node = built.named("/lm_head/MatMul_Q4")
    for part in (built.array(name) for name in node.input[1:4] if name):
        rows = part.reshape(int(next(a.i for a in node.attribute if a.name == "N")), -1)
        if rows.shape[1]:
            rows[[300, 301]] = rows[[301, 300]]

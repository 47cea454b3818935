"""Faults of attention, caches and wiring, and those that only the output shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.faults.built import Built, fault, gate_only, onnx

# attention


@fault("attention-settings")
def window_everywhere(built: Built) -> None:
    for node in built.attentions():
        built.set(node, "local_window_size", 128)


@fault("attention-settings")
def window_in_one_layer(built: Built) -> None:
    built.set(built.attentions()[1], "local_window_size", 64)


@fault("attention-settings", "gemma3")
def window_of_one_kind_lost(built: Built) -> None:
    for node in built.attentions():
        built.set(node, "local_window_size", -1)


@fault("attention-settings")
def scale_larger(built: Built) -> None:
    for node in built.attentions():
        scale = next(a.f for a in node.attribute if a.name == "scale")
        built.set(node, "scale", scale * 1.1)


@fault("attention-settings")
def softcap(built: Built) -> None:
    built.set(built.attentions()[0], "softcap", 30.0)


@fault("attention-settings")
def rotary_interleaved(built: Built) -> None:
    for node in built.attentions():
        built.set(node, "rotary_interleaved", 1)


@fault("attention-settings")
def no_rotary_in_one_layer(built: Built) -> None:
    built.set(built.attentions()[1], "do_rotary", 0)


@fault("attention-settings")
def window_of_the_runtime(built: Built) -> None:
    def window(config: dict[str, Any]) -> None:
        given = {"window_size": 64, "slide_key_value_cache": True, "layers": [0, 1]}
        config["model"]["decoder"]["sliding_window"] = given

    built.change("genai_config.json", window)


# caches and wiring


@fault("cache-wiring")
def caches_swapped(built: Built) -> None:
    for node in built.attentions():
        node.input[3], node.input[4] = node.input[4], node.input[3]


@fault("cache-wiring")
def presents_swapped(built: Built) -> None:
    for node in built.attentions():
        node.output[1], node.output[2] = node.output[2], node.output[1]


def _cross(sides: list[Any], first: int) -> None:
    one, other = sides[:2]
    for place in (first, first + 1):
        one[place], other[place] = other[place], one[place]


@fault("cache-wiring")
def caches_crossed(built: Built) -> None:
    _cross([node.input for node in built.attentions()], 3)


@fault("cache-wiring")
def presents_crossed(built: Built) -> None:
    _cross([node.output for node in built.attentions()], 1)


@fault("cache-wiring")
def cache_names_swapped(built: Built) -> None:
    def swap(config: dict[str, Any]) -> None:
        names = config["model"]["decoder"]["inputs"]
        one, other = "past_key_names", "past_value_names"
        names[one], names[other] = names[other], names[one]

    built.change("genai_config.json", swap)


@fault("graph-wiring", recipe="dml")
def keys_as_values(built: Built) -> None:
    for node in built.attentions():
        node.input[1], node.input[2] = node.input[2], node.input[1]


@fault("graph-wiring", "gemma3")
def queries_and_keys_of_the_split(built: Built) -> None:
    for node in built.nodes("Split"):
        node.output[1], node.output[2] = node.output[2], node.output[1]


@fault("graph-wiring")
def matrices_of_two_layers_exchanged(built: Built) -> None:
    one, other = (built.named(f"layers.{i}/mlp/down_proj/MatMul_Q4") for i in (0, 1))
    for place in range(1, len(one.input)):
        one.input[place], other.input[place] = other.input[place], one.input[place]


@fault("graph-wiring")
def norms_of_a_layer_exchanged(built: Built) -> None:
    names = ("input_layernorm/SkipLayerNorm", "post_attention_layernorm/SkipLayerNorm")
    one, other = (built.named(f"layers.1/{name}") for name in names)
    one.input[2], other.input[2] = other.input[2], one.input[2]


def _without_bias(built: Built, number: int) -> Any:
    node = built.named(f"layers.{number}/attn/qkv_proj/Add")
    built.attentions()[number].input[0] = node.input[0]
    return node


@fault("graph-wiring", "biased")
def bias_not_added(built: Built) -> None:
    for number in (0, 1):
        built.model.graph.node.remove(_without_bias(built, number))


@fault("weights-missing", "biased")
def bias_gone(built: Built) -> None:
    for number in (0, 1):
        node = _without_bias(built, number)
        built.model.graph.initializer.remove(built.tensors[node.input[1]])
        built.model.graph.node.remove(node)


@fault("graph-wiring", "gemma", "k_quant")
def embedding_without_zero_points(built: Built) -> None:
    del built.nodes("GatherBlockQuantized")[0].input[3]


@fault("graph-wiring")
def residual_lost(built: Built) -> None:
    node = built.named("layers.1/post_attention_layernorm/SkipLayerNorm")
    node.input[0] = node.input[1]


@fault("graph-wiring")
def constant(built: Built) -> None:
    node = next(n for n in built.nodes("Constant") if n.output[0].endswith("/1"))
    node.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array(2, np.int64)))


# the output alone


@gate_only
def gate_and_up_exchanged(built: Built) -> None:
    for node in built.model.graph.node:
        if node.name.endswith("/mlp/act_fn/Sigmoid"):
            gate, up = node.input[0], node.input[0].replace("gate_proj", "up_proj")
            layer = node.name.removesuffix("/act_fn/Sigmoid")
            node.input[0] = up
            built.named(f"{layer}/act_fn/Mul").input[0] = up
            built.named(f"{layer}/Mul").input[1] = gate


@gate_only
def another_activation(built: Built) -> None:
    for node in built.nodes("Sigmoid"):
        node.op_type = "Tanh"

"""Plants faults that only a comparison with the source finds; for the toolchain's interpreter.

    python plant_source.py FOLDER FAULT…     (names: the functions of `FAULTS`, with dashes)

The files stay whole, every id is in range, and the model loads and answers.
"""

# mypy: disable-error-code="import-not-found,no-untyped-def,no-untyped-call,no-any-return"
# (onnx is the toolchain's)

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import onnx
except ImportError:  # pytest reads the names alone
    onnx = None

GRAPH = "model.onnx"


class Fault(NamedTuple):
    """A fault: the lint's finding, what plants it, and the tiny model that it fits."""

    finding: str
    plant: Callable[["Built"], None]
    family: str
    recipe: str


FAULTS: dict[str, Fault] = {}
FOR_THE_GATE: dict[str, Callable[["Built"], None]] = {}
"""Faults that are the same in every layer and keep all names: only the output shows them."""


class Built:
    """A built folder, changed in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = onnx.load(folder / GRAPH, load_external_data=False)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def save(self) -> None:
        (self.folder / GRAPH).write_bytes(self.model.SerializeToString())

    def nodes(self, *kinds: str) -> list[Any]:
        return [node for node in self.model.graph.node if node.op_type in kinds]

    def attentions(self) -> list[Any]:
        return self.nodes("GroupQueryAttention")

    def named(self, end: str) -> Any:
        return next(node for node in self.model.graph.node if node.name.endswith(end))

    def array(self, name: str) -> Any:
        """A tensor of the data file; what is written there is in the file."""
        tensor = self.tensors[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        return np.memmap(
            self.folder / where["location"],
            onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type),
            "r+", offset=int(where["offset"]), shape=tuple(tensor.dims),
        )  # fmt: skip

    def parts(self, number: int = 1) -> list[Any]:
        """Values, scales and zero points of a quantised matrix."""
        node = self.nodes("MatMulNBits")[number]
        return [self.array(name) for name in node.input[1:4] if name]

    def set(self, node: Any, name: str, value: float) -> None:
        for attribute in node.attribute:
            if attribute.name == name:
                kind = "i" if attribute.type == onnx.AttributeProto.INT else "f"
                setattr(attribute, kind, value)

    def change(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        path = self.folder / name
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def fault(
    finding: str, family: str = "qwen2", recipe: str = "plain"
) -> Callable[[Callable[[Built], None]], Callable[[Built], None]]:
    def register(plant: Callable[[Built], None]) -> Callable[[Built], None]:
        FAULTS[plant.__name__.replace("_", "-")] = Fault(finding, plant, family, recipe)
        return plant

    return register


def gate_only(plant: Callable[[Built], None]) -> Callable[[Built], None]:
    FOR_THE_GATE[plant.__name__.replace("_", "-")] = plant
    return plant


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


@fault("graph-wiring")
def residual_lost(built: Built) -> None:
    node = built.named("layers.1/post_attention_layernorm/SkipLayerNorm")
    node.input[0] = node.input[1]


@fault("graph-wiring")
def constant(built: Built) -> None:
    node = next(n for n in built.nodes("Constant") if n.output[0].endswith("/1"))
    node.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array(2, np.int64)))


# weights


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


# words and settings


@fault("tokenizer-merges")
def merge_gone(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t["model"]["merges"].pop())


@fault("tokenizer-added-tokens")
def added_token_gone(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t["added_tokens"].pop(0))


@fault("tokenizer-added-tokens")
def added_token_flag(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t["added_tokens"][-1].update(lstrip=True))


@fault("tokenizer-words")
def words_exchanged(built: Built) -> None:
    def exchange(tokenizer: dict[str, Any]) -> None:
        words = tokenizer["model"]["vocab"]
        one, other = list(words)[-2:]
        words[one], words[other] = words[other], words[one]

    built.change("tokenizer.json", exchange)


@fault("tokenizer-settings")
def normalizer(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t.update(normalizer={"type": "NFKC"}))


@fault("tokenizer-settings")
def pre_tokenizer(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t.update(pre_tokenizer=None))


@fault("tokenizer-settings")
def end_word(built: Built) -> None:
    built.change("tokenizer_config.json", lambda t: t.update(eos_token="<|endoftext|>"))


@fault("chat-template")
def template_blank(built: Built) -> None:
    path = built.folder / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")


@fault("token-ids")
def second_end(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(eos_token_id=[2, 17]))


@fault("token-ids")
def other_begin(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(bos_token_id=3))


@fault("token-ids")
def other_pad(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(pad_token_id=5))


@fault("context-length")
def context_quadrupled(built: Built) -> None:
    def longer(config: dict[str, Any]) -> None:
        config["model"]["context_length"] *= 4

    built.change("genai_config.json", longer)


@fault("model-settings")
def other_head_size(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"]["decoder"].update(head_size=48))


@fault("model-settings")
def other_type(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(type="gemma"))


@fault("search-settings")
def temperature(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(temperature=2.5))


@fault("search-settings")
def penalty(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(repetition_penalty=5.0))


@fault("search-settings")
def min_length(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(min_length=200))


@fault("search-settings")
def unknown_setting(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(random_seed=7))


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


if __name__ == "__main__":
    plants = {name: planted.plant for name, planted in FAULTS.items()} | FOR_THE_GATE
    built_folder = Built(Path(sys.argv[1]))
    for wanted in sys.argv[2:]:
        plants[wanted](built_folder)
    built_folder.save()

"""For any untrusted headers a plan is made or refused; it never ends in a traceback."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from edgekit.builder.plan.plan import Machine, PlanCandidate, SourceSizes, make_plan
from edgekit.builder.plan.shape import shape_of
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.request.asked import asked_for
from edgekit.builder.request.recipe import RECIPES
from edgekit.builder.source.safetensors import read_weight_file
from edgekit.builder.source.soundness import unsound
from edgekit.builder.support.adapter import wrong_adapter
from edgekit.builder.support.architectures import ARCHITECTURES, support_of
from edgekit.builder.support.modelconfig import check_config
from edgekit.builder.support.weights import lost_by_type
from edgekit.cli.model.plan import plan_text
from edgekit.errors import UsageError

MACHINE = Machine(8 << 30, 10**11, 10**11, same_disk=True, cpus=2)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**6), st.floats(), st.text(max_size=8),
    st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(max_size=4), st.integers()),
)  # fmt: skip
NUMBERS = st.sampled_from(
    [
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim",
        "num_local_experts", "num_experts_per_tok", "sliding_window", "moe_intermediate_size",
        "original_max_position_embeddings",
    ]
)  # fmt: skip
OTHERS = st.sampled_from(
    [
        "architectures", "text_config", "rope_scaling", "rope_parameters", "layer_types",
        "quantization_config", "tie_word_embeddings", "partial_rotary_factor", "no_rope_layers",
        "model_type", "torch_dtype", "rope_theta", "rms_norm_eps", "layer_norm_eps",
    ]
)  # fmt: skip
ROPES = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["yarn", "longrope", "linear", "default"])},
    optional={
        "factor": st.floats(), "beta_fast": ODD, "beta_slow": ODD, "truncate": ODD,
        "rope_theta": st.floats(), "original_max_position_embeddings": st.integers(-1, 10**6),
    },
)  # fmt: skip
CONFIGS = st.builds(
    lambda name, rope, numbers, odd: {
        "architectures": [name],
        "rope_parameters": rope,
        **numbers,
        **odd,
    },
    st.sampled_from(sorted(ARCHITECTURES)),
    st.one_of(st.none(), ROPES),
    st.dictionaries(NUMBERS, st.integers(1, 64), min_size=6),
    st.dictionaries(st.one_of(OTHERS, NUMBERS), ODD, max_size=3),
)
TENSORS = st.dictionaries(
    st.sampled_from(
        [
            "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.down_proj.weight",
            "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.experts.3.w.weight",
            "model.layers.0.mlp.experts.gate_up_proj", "visual.blocks.0.w", "",
        ]
    ),
    st.builds(
        Tensor,
        st.sampled_from(["F32", "BF16", "F4", "?"]),
        st.lists(st.integers(0, 9), max_size=4).map(tuple),
    ),
    max_size=6,
)  # fmt: skip


@given(config=CONFIGS, tensors=TENSORS, recipe=st.sampled_from(RECIPES))
@example(
    config={
        "architectures": ["ChatGLMForConditionalGeneration"],
        "hidden_size": 1,
        "intermediate_size": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 1,
        "max_position_embeddings": 1,
    },
    tensors={"lm_head.weight": Tensor("F32", (0, 0))},
    recipe=RECIPES[0],
)
def test_any_config_is_planned_or_refused(
    config: dict[str, Any], tensors: dict[str, Tensor], recipe: Any
) -> None:
    try:
        check_config(config)
        unsound(config, {name: tensor.shape for name, tensor in tensors.items()}, {})
        lost_by_type(config, {tensor.dtype: tensor.elements for tensor in tensors.values()})
        verdict = support_of(config, recipe.precision, "cpu")
        shape = shape_of(config, tensors)
        wanted = asked_for(recipe.precision, "cpu", recipe.options, config)
    except UsageError:
        return
    plan = make_plan(
        SourceSizes("m"), verdict, shape, [PlanCandidate(recipe.name, wanted)], MACHINE
    )
    row = plan.rows[0]
    assert row.data_bytes >= 0
    assert all(0 <= device.context <= shape.context for device in row.devices)
    assert plan_text(plan)


MODULE = "base_model.model.model.layers.0.mlp.down_proj"
PARTS = st.dictionaries(
    st.sampled_from([f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight", f"{MODULE}.bias", "x"]),
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
)
SETTINGS = st.dictionaries(
    st.sampled_from(["r", "target_modules", "bias", "rank_pattern", "use_dora", "peft_type"]), ODD
)


@given(settings=SETTINGS, adapter=PARTS, tensors=TENSORS)
def test_any_adapter_is_taken_or_refused(
    settings: dict[str, Any], adapter: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]
) -> None:
    base = {name: tensor.shape for name, tensor in tensors.items()}
    wrong_adapter({"peft_type": "LORA", "r": 3, **settings}, adapter, base, listed=True)


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "?"]),
        "shape": st.lists(st.integers(-1, 9), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3),
    }
)
HEADERS = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(st.text(max_size=4), st.one_of(ENTRY, ODD), max_size=4).map(
        lambda header: json.dumps(header).encode()
    ),
)


@given(header=HEADERS, data=st.binary(max_size=40), length=st.integers(-3, 3))
def test_any_weight_file_is_read_or_refused(header: bytes, data: bytes, length: int) -> None:
    size = max(0, len(header) + length)
    with tempfile.NamedTemporaryFile() as file:
        file.write(size.to_bytes(8, "little") + header + data)
        file.flush()
        with suppress(UsageError):
            read_weight_file(Path(file.name))

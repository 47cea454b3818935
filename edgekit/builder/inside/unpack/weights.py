"""Loads the weights of a GGUF file, and checks that all of them found a place.

transformers 5.23 drops tensors that it cannot place, in silence, and lists parameters without a
tensor in its loading report alone.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from common.reporting import ScriptError
from unpack.tokens import REFUSED

_UNPLACED = "of the file has no place in the model"
_MISSING = "of the model is not in the file"
# They hold no weights; the configuration has what they say (`support/gguf/rope.py`).
_IN_CONFIG = frozenset(
    {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
)


def make_config(fields: dict[str, Any]) -> Any:
    """The configuration with these fields.

    Raises:
        ScriptError: transformers changes a field.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(**fields)
    made = config.to_dict()
    for key, value in fields.items():
        if not _holds(made.get(key), value) and key != "partial_rotary_factor":
            raise ScriptError(
                REFUSED, f"transformers reads {key} as {made.get(key)}, it is {value}"
            )
    return config


def _holds(made: Any, value: Any) -> bool:
    if isinstance(value, dict) and isinstance(made, dict):
        return all(_holds(made.get(key), each) for key, each in value.items())
    return bool(made == value)


def load(gguf: Path, config: Any) -> Any:
    """The model in float32.

    Args:
        gguf: alone in its folder.

    Raises:
        ScriptError: a tensor of the file has no place, or a parameter has no tensor.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _tell_heads(config)
    with torch.device("meta"):
        _check_names(gguf, AutoModelForCausalLM.from_config(config))
    # transformers takes a folder and a file name
    model, report = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # the report names them, the exception does not
        output_loading_info=True,
    )
    _refuse(set(report["missing_keys"]) - _tied(model), _MISSING)
    _refuse(report["unexpected_keys"], _UNPLACED)
    _refuse(
        [str(each[0]) for each in report["mismatched_keys"]],
        "of the file has another shape than in the model",
    )
    return model


def _tell_heads(config: Any) -> None:
    """Give the number of heads to the reader that reorders a Llama's rows.

    It takes them from its own reading of the header; where `head_count_kv` is not there, because it
    is that of the queries, it leaves the rows as they are, in silence.
    """
    from transformers import modeling_gguf_pytorch_utils as reader

    told = {name: getattr(config, name) for name in ("num_attention_heads", "num_key_value_heads")}
    reader.TENSOR_PROCESSORS["llama"] = lambda config: reader.LlamaTensorProcessor(config=told)


def _check_names(gguf: Path, empty: Any) -> None:
    """Refuse by the names alone what transformers' older reader drops, before anything is read.

    The newer one, for lfm2, reports it after loading.

    Args:
        empty: the model without weights.
    """
    from transformers.integrations.gguf import is_gguf_arch_supported
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    metadata, names = read_gguf_metadata(str(gguf))
    architecture = metadata["general.architecture"]
    if is_gguf_arch_supported(architecture):
        return
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    places = get_gguf_hf_weights_map(empty, processor)
    _refuse(set(names) - set(places) - _IN_CONFIG, _UNPLACED)
    given = {place for name, place in places.items() if name in names}
    _refuse(set(empty.state_dict()) - given - _tied(empty), _MISSING)


def _tied(model: Any) -> set[str]:
    """The parameters that are another one."""
    return set(getattr(model, "all_tied_weights_keys", None) or ())


def _refuse(names: Collection[str], what: str) -> None:
    if first := min(names, default=""):
        more = len(set(names)) - 1
        raise ScriptError(REFUSED, f"{first} {what}" + (f" (and {more} more)" if more else ""))

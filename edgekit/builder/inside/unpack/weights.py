"""Loads the weights of a GGUF file, and checks that all of them found a place.

transformers 5.23 drops tensors that it cannot place, in silence, and lists parameters without a
tensor in its loading report alone.
"""

from pathlib import Path
from typing import Any

from common.reporting import ScriptError

# They hold no weights; the configuration has what they say (`support/ggufrope.py`).
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
                "configuration", f"transformers reads {key} as {made.get(key)}, it is {value}"
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

    # transformers takes a folder and a file name
    model, report = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # the report names them, the exception does not
        output_loading_info=True,
    )
    _refuse(sorted(_unplaced(gguf, model)), "of the file has no place in the model")
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = set(report["missing_keys"]) - tied
    _refuse(sorted(missing), "of the model is not in the file")
    _refuse(sorted(report["unexpected_keys"]), "of the file has no place in the model")
    wrong = [str(each[0]) for each in report["mismatched_keys"]]
    _refuse(sorted(wrong), "of the file has another shape than in the model")
    return model


def _refuse(names: list[str], what: str) -> None:
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise ScriptError("weights", f"{names[0]} {what}{more}")


def _unplaced(gguf: Path, model: Any) -> set[str]:
    """The tensors that transformers' older reader drops; the newer one reports them itself."""
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
        return set()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    return set(names) - set(get_gguf_hf_weights_map(model, processor)) - _IN_CONFIG

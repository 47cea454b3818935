"""What transformers says about checkpoints; run with the toolchain's interpreter.

    python checkpoint_oracle.py INSIDE FAMILIES RESULTS

INSIDE is the folder of `convert.py`. FAMILIES is a JSON file: name -> {architecture, config,
values, leftovers}. RESULTS takes name -> {config, tensors: name -> shape, alone: tied where the
configuration says nothing, ties: [whole model's key, text part's, tied] for each spelling of a
whole model's two keys, said: case -> the refusal of `strict_loading`}. The cases are a missing
tensor, one without a place and one of another shape, in the last layer and outside the layers.
"""

# mypy: disable-error-code="import-not-found"

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any


def cases(state: dict[str, Any], layers: int) -> dict[str, dict[str, Any]]:
    """Case -> changed tensors."""
    import torch

    found: dict[str, dict[str, Any]] = {"whole": state}
    for name, tensor in state.items():
        layer = re.search(r"\.(\d+)\.", name)
        if layer and int(layer[1]) != layers - 1:
            continue
        found[f"lacks {name}"] = {key: value for key, value in state.items() if key != name}
        if tensor.dim() == 1:
            found[f"shape {name}"] = {**state, name: torch.zeros(len(tensor) + 1)}
    last = f"model.layers.{layers - 1}"
    for name in (f"{last}.mlp.odd.weight", f"{last}.self_attn.rotary_emb.inv_freq", "odd.weight"):
        found[f"extra {name}"] = {**state, name: torch.zeros(3)}
    return found


def said(model: Any, config: Any, state: dict[str, Any], leftovers: list[str]) -> str:
    """The refusal, or an empty string."""
    from common.loading import strict_loading
    from common.reporting import ScriptError

    try:
        with strict_loading(leftovers):
            model.from_pretrained(None, config=config, state_dict=state)
    except ScriptError as error:
        return str(error)
    return ""


def ties(kind: Any, values: dict[str, Any]) -> list[tuple[bool | None, bool | None, bool]]:
    """What the class makes of the two keys: `tie_weights` asks this attribute of the whole."""
    found = []
    for whole, inner in itertools.product((None, True, False), repeat=2):
        given = {**values, "text_config": dict(values["text_config"])}
        for part in (given, given["text_config"]):
            part.pop("tie_word_embeddings", None)
        if whole is not None:
            given["tie_word_embeddings"] = whole
        if inner is not None:
            given["text_config"]["tie_word_embeddings"] = inner
        found.append((whole, inner, bool(kind(**given).tie_word_embeddings)))
    return found


def examined(family: dict[str, Any]) -> dict[str, Any]:
    """One entry of the results."""
    import torch
    import transformers

    kind = getattr(transformers, family["config"])
    config = kind(**family["values"])
    config.architectures = [family["architecture"]]
    model = getattr(transformers, family["architecture"])
    torch.manual_seed(1)
    made = model(config)
    state = made.state_dict()
    tied = config.get_text_config().tie_word_embeddings and config.tie_word_embeddings
    if tied:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head.w")}
    layers = config.get_text_config().num_hidden_layers
    return {
        "config": config.to_dict(),
        "tensors": {name: list(tensor.shape) for name, tensor in state.items()},
        "alone": bool(kind().tie_word_embeddings),
        "ties": ties(kind, family["values"]) if "text_config" in family["values"] else [],
        "said": {
            case: said(model, config, tensors, family["leftovers"])
            for case, tensors in cases(dict(state), layers).items()
        },
    }


def main() -> None:
    inside, families, results = map(Path, sys.argv[1:])
    sys.path.insert(0, str(inside))
    given = json.loads(families.read_text(encoding="utf-8"))
    made = {name: examined(family) for name, family in given.items()}
    results.write_text(json.dumps(made, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()

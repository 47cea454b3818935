"""Makes the same tiny model as a GGUF file and as a Hugging Face folder, with the toolchain.

    python make_gguf.py make FILE
    python make_gguf.py compare FILE
    python make_gguf.py tokens FILE

`make` reads a JSON list of `{"out": FOLDER, "architecture": CLASS, "config": CLASS, "values": {…},
"kind": NAME, "header": {KEY: VALUE}, "vectors": {NAME: LIST}, "tokenizer": {KEY: VALUE}}` and
writes FOLDER/reference and FOLDER/model.gguf: `kind` is general.architecture, `header` its keys,
and `tokenizer` what is to differ from the usual tokenizer (null takes a key away), `words` tokens
by their numbers, `without` names of tensors that are left out, `vocabulary` a tokenizer of
`make_vocabulary.py`, `general` keys with that prefix, and `split` the most tensors of a part.

`compare` reads a JSON list of `{"reference": FOLDER, "made": FOLDER}` and prints one JSON line for
each: the largest difference between the logits of both, and the fields of config.json that differ.
`tokens` does so for `{"truth": FILE, "made": FOLDER}`: the texts on which tokenizer.json and a
folder's tokenizer differ.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import json
import sys
from pathlib import Path
from typing import Any

from make_tiny_model import CHAT_TEMPLATE, make_any
from make_vocabulary import differences, write_vocabulary

TOKENS = 48
_NORMS_PLUS_ONE = ("gemma2", "gemma3", "nemotron")
_NAMES = ("_name_or_path", "_model_name_or_path", "transformers_version", "dtype")


def write_gguf(entry: dict[str, Any]) -> None:
    """Write both forms of a model."""
    import gguf
    import numpy as np

    out = Path(entry["out"])
    model = make_any(out / "reference", entry["architecture"], entry["config"], entry["values"])
    writer = gguf.GGUFWriter(
        out / "model.gguf", entry["kind"], split_max_tensors=entry.get("split", 0)
    )
    for key, value in entry.get("general", {}).items():
        add(writer, f"general.{key}", value)
    for key, value in entry["header"].items():
        add(writer, f"{entry['kind']}.{key}", value)
    said = vocabulary(out / "reference")
    if name := entry.get("vocabulary"):
        said |= write_vocabulary(name, out)
    said |= entry.get("tokenizer", {})
    for number, word in entry.get("words", {}).items():
        said["ggml.tokens"][int(number)] = word
    for key, value in said.items():
        add(writer, f"tokenizer.{key}", value)
    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == entry["kind"])
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if (tied and name == "lm_head.weight") or target in entry.get("without", ()):
            continue
        values = converted(target, weight.detach().numpy(), model.config, entry["kind"])
        writer.add_tensor(target, np.ascontiguousarray(values))
    for name, values in entry.get("vectors", {}).items():
        writer.add_tensor(name, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(target: str, values: Any, config: Any, kind: str) -> Any:
    """A tensor as convert_hf_to_gguf.py of llama.cpp writes it."""
    if kind == "llama" and (".attn_q." in target or ".attn_k." in target):
        heads = config.num_key_value_heads if ".attn_k." in target else config.num_attention_heads
        halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if kind in _NORMS_PLUS_ONE and target.endswith("norm.weight"):
        return values + 1
    return values.squeeze(1) if "shortconv.conv" in target else values


def vocabulary(folder: Path) -> dict[str, Any]:
    """The keys of a tokenizer of `make_tiny_model.py`."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"]
    words = sorted(ids, key=ids.__getitem__)
    return {
        "ggml.model": "gpt2",
        "ggml.pre": "qwen2",
        "ggml.tokens": words,
        "ggml.token_type": [3 if number < 3 else 1 for number in range(len(words))],
        "ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.padding_token_id": 0,
        "chat_template": CHAT_TEMPLATE,
    }


def add(writer: Any, key: str, value: Any) -> None:
    """Add a key of the type that llama.cpp gives it."""
    if value is None:
        return
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def compare(entry: dict[str, str]) -> dict[str, Any]:
    """The largest difference of the logits, and the fields that differ."""
    import torch
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(entry[key]) for key in ("reference", "made")]
    ids = torch.arange(TOKENS)[None] * 7 % models[0].config.vocab_size
    with torch.no_grad():
        first, second = (model.eval()(ids).logits for model in models)
    told, made = (model.config.to_dict() for model in models)
    return {
        "difference": float((first - second).abs().max()),
        "size": float(first.abs().max()),
        "fields": {
            key: [told.get(key), made.get(key)]
            for key in sorted(told.keys() | made.keys())
            if key not in _NAMES and told.get(key) != made.get(key)
        },
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for entry in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        if sys.argv[1] == "make":
            Path(entry["out"]).mkdir(parents=True)
            write_gguf(entry)
        elif sys.argv[1] == "compare":
            print(json.dumps(compare(entry)), flush=True)
        else:
            print(json.dumps(differences(Path(entry["truth"]), Path(entry["made"]))), flush=True)


if __name__ == "__main__":
    main()

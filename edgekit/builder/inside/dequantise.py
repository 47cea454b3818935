"""Converts a GGUF file to a Hugging Face folder, because the builder reads no quantised GGUF.

    python dequantise.py --gguf FILE --told FILE --out FOLDER --report FILE

transformers reads the weights, which become float32, and the vocabulary. The configuration and the
rules of the tokenizer are told: edgekit made them of the same header, because transformers reads
only a part of it. --told is a JSON object with `config` (`support/gguf/config.py`), `tokenizer`
(`support/gguf/tokens.py`) and `sampling` (`support/gguf/sampling.py`). The result event has
`architecture`. Errors that are the file's fault have the kind `refused`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run
from unpack.tokens import ends, make_tokenizer, read_words, save, text_ends
from unpack.weights import load, make_config


def dequantise(gguf: Path, told: dict[str, Any], out: Path) -> str:
    """Write the folder; return the architecture's name, e.g. LlamaForCausalLM."""
    words = read_words(gguf)
    # the tokenizer first, because it is made in seconds
    tokenizer = make_tokenizer(gguf, words, told["tokenizer"])
    fields = dict(told["config"])
    given = fields["eos_token_id"]
    all_ends = ends(
        words, told["tokenizer"]["templates"], given if isinstance(given, list) else [given]
    )
    fields["eos_token_id"] = all_ends if len(all_ends) > 1 else all_ends[0]
    model = load(gguf, make_config(fields))
    # transformers 5 still marks the weights as quantised, and refuses to save them as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    ids = {name: fields[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if more := text_ends(words, all_ends):
        ids["eos_token_id"] = [*all_ends, *more]
    for name, value in {**ids, **told["sampling"]}.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(out)
    save(tokenizer, out)
    return model.config.architectures[0]


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The result event."""
    told = json.loads(args.told.read_text(encoding="utf-8"))
    return {"architecture": dequantise(args.gguf, told, args.out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--told", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    run(parser, work)

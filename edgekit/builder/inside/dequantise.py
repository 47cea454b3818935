"""Converts a GGUF file to a Hugging Face folder, because the builder reads no quantised GGUF.

    python dequantise.py --gguf FILE --out FOLDER --report FILE

The weights are float32; config, tokenizer and chat template come from the file's metadata.
The result event has `architecture`.
"""

import argparse
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run


def dequantise(gguf: Path, out: Path) -> str:
    """Write the folder; return the architecture's name, e.g. LlamaForCausalLM."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers takes a folder and a file name; the folder holds nothing else, therefore the
    # result depends on this one file
    folder = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name)
    # transformers 5 still marks the weights as quantised, and refuses to save them as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model.config.architectures[0]


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The result event."""
    return {"architecture": dequantise(args.gguf, args.out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    run(parser, work)

"""Turns a GGUF file into a Hugging Face folder, because the builder reads no quantised GGUF.

    python dequantise.py --gguf FILE --out FOLDER --report-fd N

Weights come out in float32, with config, tokenizer and chat template from the file's metadata.
Reports `{"event": "result", "architecture": …}` or `{"event": "error", "kind": …, "message": …}`.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def dequantise(gguf: Path, out: Path) -> str:
    """Returns the architecture's name, e.g. LlamaForCausalLM."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers wants a folder and a name; a folder with nothing else in it, so that the result
    # depends on this one file
    folder = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name)
    # transformers 5 keeps saying that the weights are quantised and then refuses to save them
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model.config.architectures[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report-fd", type=int, required=True)
    args = parser.parse_args()

    def report(**event: object) -> None:
        os.write(args.report_fd, (json.dumps(event) + "\n").encode())

    try:
        architecture = dequantise(args.gguf, args.out)
    except Exception as error:  # whatever transformers raises is the reason we pass on
        report(event="error", kind=type(error).__name__, message=str(error).strip())
        sys.exit(1)
    report(event="result", architecture=architecture)


if __name__ == "__main__":
    main()

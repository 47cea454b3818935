"""Stands in for `builder/inside/convert.py`: its command line, a made-up model, no toolchain.

What it does beside that is steered by the file `behaviour` in the model's folder:
`fail` raises after half the work, `killed` ends itself with signal 9, `slow` never ends,
`empty` ends well without a model. Without the file it builds.
"""

import json
import os
import shutil
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:]
    source = Path(arguments[arguments.index("-i") + 1])
    out = Path(arguments[arguments.index("-o") + 1])
    options = sorted(after for word, after in pairwise(arguments) if word == "--option")
    report = Path(arguments[arguments.index("--report") + 1])
    marker = source / "behaviour"
    behaviour = marker.read_text(encoding="utf-8") if marker.exists() else ""
    if behaviour == "empty":
        return
    out.mkdir()
    (out / "model.onnx.data").write_bytes((source / "model.safetensors").read_bytes() * 2)
    sys.stdout.write("Reading decoder layer 0\n")
    sys.stdout.flush()
    if behaviour == "fail":
        raise NotImplementedError("The model is not currently supported.")
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "slow":
        time.sleep(600)
    (out / "model.onnx").write_text(" ".join(options), encoding="utf-8")
    (out / "genai_config.json").write_text("{}\n", encoding="utf-8")
    config = {"backend": "tokenizers", "local_files_only": True, "eos_token": "ü"}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (out / "tokenizer_config.json").write_text(text, encoding="utf-8")
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    result = {"event": "result", "path": "low-memory", "note": ""}
    report.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

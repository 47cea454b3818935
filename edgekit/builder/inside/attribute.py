"""Splits a model's loss into the parts of the export, the weights and the activations.

    python attribute.py --model FOLDER --source FOLDER --reference FOLDER --work FOLDER
        --amounts JSON [--adapter FOLDER] [--leftover PATTERN …]

--source is the folder that the model was built from, its config.json mended. The script builds it
in fp32, makes a copy of the model whose matrices multiply in float32 (`accuracy_level` 1), and
compares each step with the one before. Any other difference of the graph (rotary tables, norms)
counts as a loss of the weights. The result event has export, weights, activations (mean KL
divergences in nats per token) and positions.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.reporting import Reporter, ScriptError, run
from gate.clock import SUMMARY, speeds_of
from gate.duration import Amounts, cause_seconds
from gate.logits import NAME, Texts, compare, load_logits
from gate.runtime import open_model

FLOAT32_ACCURACY = 1
CONFIG = "genai_config.json"


def build_fp32(args: argparse.Namespace) -> Path:
    """Build the source in fp32, by the script and with the adapter of the build itself.

    The graphs beside the text part are those of the model.
    """
    source, work, adapter = args.source, args.work, args.adapter
    out = work / "fp32"
    told = json.loads((args.model / CONFIG).read_text(encoding="utf-8"))["model"]
    parts = {name: told[name] for name in ("vision", "embedding") if name in told}
    argv = [
        sys.executable, "-E", "-s", Path(__file__).with_name("convert.py"),
        "-i", source, "-o", out, "-p", "fp32", "-e", "cpu", "-c", work / "builder-cache",
        "--path", "stock", "--report", work / "fp32-events",
        *(("--option", f"adapter_path={adapter}") if adapter else ()),
        *(("--option", "exclude_embeds=true") if parts else ()),
        *(word for each in args.leftover for word in ("--leftover", each)),
    ]  # fmt: skip
    made = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False)
    if made.returncode != 0 or not (out / "model.onnx").is_file():
        raise ScriptError("builder", "the source could not be built in fp32")
    if parts:
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        config["model"] |= {**parts, "type": told["type"]}
        (out / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        for name in (part["filename"] for part in parts.values()):
            for file in (name, f"{name}.data"):
                _link(args.model / file, out / file)
    return out


def with_float32_activations(model: Path, out: Path) -> Path:
    """The same model with accuracy level 1; its data files are linked, not copied."""
    import onnx

    out.mkdir()
    for path in model.iterdir():
        if path.suffix == ".onnx":
            graph = onnx.load(path, load_external_data=False)
            for node in graph.graph.node:
                for attribute in node.attribute:
                    if attribute.name == "accuracy_level":
                        attribute.i = FLOAT32_ACCURACY
            onnx.save(graph, out / path.name)
        else:
            _link(path, out / path.name)
    return out


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # another file system
        shutil.copyfile(path, to)


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure the three steps on the first texts; return the result event."""
    import numpy as np

    made = json.loads((args.reference / SUMMARY).read_text(encoding="utf-8"))
    seconds = cause_seconds(Amounts(**json.loads(args.amounts)), speeds_of(made))
    reporter.event("estimate", seconds=round(seconds, 1))
    reporter.progress(f"building the source in fp32 (about {round(seconds)} s more in all)")
    folders = [build_fp32(args)]
    folders.append(with_float32_activations(args.model, args.work / "float32-activations"))
    folders.append(args.model)
    texts = Texts.load(args.reference / NAME)
    chosen = range(min(args.texts, len(texts.sequences)))
    before = {n: load_logits(args.reference, n) for n in chosen}
    losses = []
    for number, folder in enumerate(folders):
        reporter.progress("attributing the loss", number / len(folders))
        model = open_model(folder)
        kl = []
        for n in chosen:
            sequence = texts.sequences[n]
            logits = model.logits(sequence.tokens[:-1])[sequence.first :].copy()
            kl.append(compare(before[n], logits, sequence.targets).kl)
            before[n] = logits
        del model
        losses.append(float(np.concatenate(kl).mean()))
    export, weights, activations = losses
    return {
        "export": export,
        "weights": weights,
        "activations": activations,
        "positions": sum(len(texts.sequences[n].targets) for n in chosen),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--amounts", required=True, help="JSON of gate/duration.py's Amounts")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--leftover", action="append", default=[], help="as convert.py has it")
    parser.add_argument("--texts", type=int, default=5)
    run(parser, work)

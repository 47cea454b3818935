"""Compares model folders with transformers on a machine with a GPU, and times them.

    python benchmarks/cuda.py --source HF_FOLDER --model NAME=FOLDER… [--base NAME] [--json FILE]

It is run by hand and is not in the list of `python -m benchmarks`: it needs torch, transformers and
onnxruntime-genai-cuda with its onnxruntime-gpu, which the locked toolchain does not have, and
nothing of edgekit. Each folder names the provider that it is for, so that folders for the CPU can
stand beside those for CUDA. docs/build.md has figures.

transformers (FP32, on the CPU) continues each prompt greedily. Every folder reads prompt and
continuation at once and all logits are compared; then it continues the prompt itself. Speeds are
medians of rounds in which the folders take turns.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PROMPTS = Path(__file__).parents[1] / "edgekit" / "builder" / "gate" / "prompts.json"
COUNT, CONTINUED = 16, 64
READ, WRITTEN, ROUNDS = 512, 128, 7


class Folder:
    """A loaded model folder."""

    def __init__(self, path: Path) -> None:
        import onnxruntime_genai as og  # noqa: PLC0415  only where a GPU is

        self._og = og
        self._model = og.Model(str(path))
        self.device = str(self._model.device_type)

    def _generator(self, most: int) -> Any:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(
            max_length=most, batch_size=1, do_sample=False, repetition_penalty=1.0
        )
        return self._og.Generator(self._model, params)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """At every position, shape (tokens, vocabulary), float32."""
        generator = self._generator(len(tokens) + 1)
        generator.append_tokens(np.array(tokens, np.int32))
        return np.array(generator.get_output("logits")[0], np.float32)

    def continued(self, tokens: list[int], most: int) -> list[int]:
        """The next tokens, greedily."""
        generator = self._generator(len(tokens) + most + 1)
        generator.append_tokens(np.array(tokens, np.int32))
        found: list[int] = []
        while len(found) < most and not generator.is_done():
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        return found

    def speeds(self, tokens: list[int]) -> tuple[float, float]:
        """Tokens per second: read at once, and then written one by one."""
        generator = self._generator(len(tokens) + WRITTEN + 2)
        started = time.perf_counter()
        generator.append_tokens(np.array(tokens, np.int32))
        generator.generate_next_token()
        generator.get_next_tokens()
        read = time.perf_counter()
        written = 0
        while written < WRITTEN and not generator.is_done():
            generator.generate_next_token()
            generator.get_next_tokens()
            written += 1
        ended = time.perf_counter()
        return len(tokens) / (read - started), written / (ended - read)


def reference(source: Path) -> tuple[list[list[int]], list[list[int]], list[np.ndarray]]:
    """Prompts, the prompts with their greedy continuations, and the logits of these, float32."""
    import torch  # noqa: PLC0415  as above
    import transformers  # noqa: PLC0415  as above

    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    prompts, texts, logits = [], [], []
    for each in json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"][:COUNT]:
        chat = [{"role": "user", "content": each["text"]}]
        said = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(said, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            whole = model.generate(
                torch.tensor([prompt]), max_new_tokens=CONTINUED, do_sample=False
            )
            logits.append(model(whole).logits[0].float().numpy())
        prompts.append(prompt)
        texts.append(whole[0].tolist())
    return prompts, texts, logits


def log_softmax(rows: np.ndarray) -> np.ndarray:
    """Of each row, in natural logarithms."""
    shifted: np.ndarray = rows - rows.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def differences(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> dict[str, float]:
    """Of whole tensors (tokens, vocabulary): the best token, KL(wanted ‖ got) in nats, and the
    largest difference of a logit."""
    same, divergence, largest = [], [], 0.0
    for a, b in zip(wanted, got, strict=True):
        p, q = log_softmax(a), log_softmax(b)
        same.append(a.argmax(axis=1) == b.argmax(axis=1))
        divergence.append((np.exp(p) * (p - q)).sum(axis=1))
        largest = max(largest, float(np.abs(a - b).max()))
    kl = np.concatenate(divergence)
    return {
        "positions": len(kl),
        "top1": float(np.concatenate(same).mean()),
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "largest": largest,
    }


def alike(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens before the first that differs."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def timed(loaded: dict[str, Folder], tokens: list[int]) -> dict[str, dict[str, Any]]:
    """Name -> medians and ranges in tokens per second; the first round is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loaded}
    for _ in range(ROUNDS + 1):
        for name, folder in loaded.items():
            taken[name].append(folder.speeds(tokens))
    found: dict[str, dict[str, Any]] = {name: {} for name in loaded}
    for name, pairs in taken.items():
        for key, values in zip(("read", "written"), zip(*pairs[1:], strict=True), strict=True):
            found[name][f"{key}_per_second"] = round(statistics.median(values), 1)
            found[name][f"{key}_range"] = [round(min(values), 1), round(max(values), 1)]
    return found


def main() -> None:
    """Print a line for each folder, and write the report."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="what the folders are made of")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--base", metavar="NAME", help="first folder; compare the others with it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    args = parser.parse_args()
    paths = {name: Path(folder) for name, _, folder in (m.partition("=") for m in args.model)}
    prompts, texts, wanted = reference(args.source)
    report: dict[str, Any] = {}
    loaded: dict[str, Folder] = {}
    base: list[np.ndarray] | None = None
    for name, path in paths.items():
        try:
            folder = Folder(path)
            logits = [folder.logits(text) for text in texts]
            going_on = [folder.continued(prompt, CONTINUED) for prompt in prompts]
        except Exception as error:  # whatever the runtime raises belongs to this folder alone
            report[name] = {"error": str(error).strip().splitlines()[0][:300]}
            print(name, report[name], flush=True)
            continue
        loaded[name] = folder
        answers = [text[len(prompt) :] for prompt, text in zip(prompts, texts, strict=True)]
        report[name] = {
            "device": folder.device,
            **differences(wanted, logits),
            "greedy_alike": [alike(*pair) for pair in zip(answers, going_on, strict=True)],
        }
        if name == args.base:
            base = logits
        elif base:
            report[name]["to_base"] = differences(base, logits)
        print(name, json.dumps(report[name]), flush=True)
    for name, speeds in timed(loaded, [t for text in texts for t in text][:READ]).items():
        report[name] |= speeds
        print(name, json.dumps(speeds), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

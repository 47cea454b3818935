"""Compares built models with transformers; for the toolchain's interpreter.

    python compare.py --source FOLDER [--adapter FOLDER] --model NAME=FOLDER… --out FILE

Every model reads the same random tokens at once, then most of them at once and the rest one by
one, and then goes on greedily. FILE becomes `{NAME: {difference, stepwise, cosine, tokens, inside}
or {error}}`; differences are in standard deviations of transformers' logits (eager attention,
FP32).
"""

# mypy: disable-error-code="import-not-found"

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

READ, AT_ONCE, GENERATED = 24, 16, 8
SEED = 7


def reference(source: Path, adapter: Path | None, most: int) -> tuple[list[int], np.ndarray]:
    """Tokens, and transformers' logits for them, shape (tokens, vocabulary), float32."""
    import torch
    import transformers

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, config["architectures"][0])
    model = kind.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    vocabulary = (config.get("text_config") or config)["vocab_size"]
    # the first ids are the special ones; those of pictures lie at the vocabulary's end
    tokens = np.random.default_rng(SEED).integers(8, vocabulary - 32, most).tolist()
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([tokens]), use_cache=False).logits
    return tokens, logits[0].float().numpy()


class Built:
    """A built model behind onnxruntime-genai."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og

        self._og = og
        # the runtime's cache must hold a whole window; a window without layers is nobody's
        decoder = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["decoder"]
        window = decoder.get("sliding_window") or {}
        self._window = window.get("window_size", 0) if window.get("layers") != [] else 0
        self._model = og.Model(og.Config(str(folder)))

    def generator(self, most: int) -> Any:
        params = self._og.GeneratorParams(self._model)
        # greedy, and without the checkpoint's own taste
        params.set_search_options(
            max_length=max(most, self._window),
            batch_size=1,
            do_sample=False,
            repetition_penalty=1.0,
        )
        return self._og.Generator(self._model, params)

    def logits(self, tokens: list[int], at_once: int) -> np.ndarray:
        """At every position, shape (tokens, vocabulary), float32."""
        generator = self.generator(len(tokens) + 1)
        rows = []
        for part in [tokens[:at_once], *([token] for token in tokens[at_once:])]:
            generator.append_tokens(np.array(part, np.int32))
            rows.append(np.array(generator.get_output("logits")[0], np.float32))
        return np.concatenate(rows)

    def continued(self, tokens: list[int], most: int) -> list[int]:
        generator = self.generator(len(tokens) + most + 1)
        generator.append_tokens(np.array(tokens, np.int32))
        found: list[int] = []
        while len(found) < most and not generator.is_done():
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        return found


def compare(folder: Path, tokens: list[int], wanted: np.ndarray) -> dict[str, Any]:
    model = Built(folder)
    got = model.logits(tokens, len(tokens))
    one_by_one = model.logits(tokens, AT_ONCE)
    if got.shape != wanted.shape:
        return {"error": f"logits of shape {got.shape}, transformers' have {wanted.shape}"}
    scale = float(wanted.std())
    going_on = model.continued(tokens, GENERATED)
    cosine = (got * wanted).sum() / (np.linalg.norm(got) * np.linalg.norm(wanted))
    return {
        "difference": float(np.abs(got - wanted).max()) / scale,
        "stepwise": float(np.abs(one_by_one - wanted).max()) / scale,
        "scale": scale,
        "cosine": float(cosine),
        "tokens": going_on,
        "inside": bool(going_on) and all(0 <= t < wanted.shape[-1] for t in going_on),
    }


def main() -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokens, wanted = reference(args.source, args.adapter, READ)
    found: dict[str, Any] = {}
    for pair in args.model:
        name, folder = pair.split("=", 1)
        # written after each: a runtime that crashes takes only what comes after it along
        found[name] = {"error": "the runtime crashed"}
        args.out.write_text(json.dumps(found), encoding="utf-8")
        try:
            found[name] = compare(Path(folder), tokens, wanted)
        except Exception as error:  # whatever a runtime raises is the row's reason
            found[name] = {"error": str(error).strip().splitlines()[0][:160]}
        args.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

"""SmolVLM as transformers' own class computes it, with its processor's prompt.

    python smolvlm_reference.py CHECKPOINT CASES.npz OUT.npz [--text FOLDER]

Run with the toolchain's interpreter. Nothing of edgekit takes part. For each N in CASES: `ids_N`
i64 [tokens], below 0 for a picture's row; `pixels_N` f32 [views, 3, side, side], the views of all
pictures in their order, where there are pictures; `greedy_N`, the number of tokens to answer.
Without `ids_N` only the features are computed. OUT gets `features_N` [rows, hidden], `logits_N`
[tokens, vocabulary] of all positions of `ids_N`, `tokens_N`, and `margins_N`: by how much the logit
of each token is above the second one. `--text` takes the text part's weights from the safetensors
files of another folder, by a Llama's names.
"""

# mypy: disable-error-code="import-not-found"

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    for file in args.text.glob("*.safetensors") if args.text else ():
        own = dict(model.named_parameters())
        for name, tensor in load_file(file).items():
            whole = name.replace("model.", "model.text_model.", 1)
            own[whole].data = tensor.float()
    place = model.config.image_token_id
    made: dict[str, np.ndarray] = {}
    with np.load(args.cases) as cases, torch.inference_mode():
        numbers = sorted({name.partition("_")[2] for name in cases})
        for number in numbers:
            more = {}
            if f"pixels_{number}" in cases:
                pixels = torch.from_numpy(cases[f"pixels_{number}"])[None]
                more = {"pixel_values": pixels}
                seen = model.get_image_features(**more, return_dict=True).pooler_output
                made[f"features_{number}"] = torch.cat(list(seen)).numpy()
            if f"ids_{number}" not in cases:
                continue
            ids = torch.from_numpy(cases[f"ids_{number}"]).clone()[None]
            ids[ids < 0] = place
            logits = model(input_ids=ids, **more).logits[0]
            made[f"logits_{number}"] = logits.numpy()
            tokens, margins, last = [], [], logits[-1]
            for _ in range(int(cases[f"greedy_{number}"])):
                best = torch.topk(last, 2)
                tokens.append(int(best.indices[0]))
                margins.append(float(best.values[0] - best.values[1]))
                ids = torch.cat([ids, torch.tensor([[tokens[-1]]])], dim=1)
                last = model(input_ids=ids, **more).logits[0, -1]
            made[f"tokens_{number}"] = np.array(tokens, np.int64)
            made[f"margins_{number}"] = np.array(margins, np.float32)
    np.savez(args.out, **made)  # type: ignore[arg-type]  # arrays by name


if __name__ == "__main__":
    main()

"""Computes what full precision makes of pictures: features, and logits of fixed answers.

    python picture_reference.py --source FOLDER --out FOLDER [--mapped]

FOLDER is a source as the model builder reads it: its config.json is that of the text part.
`gate/scenes.py` defines the output. `--mapped` holds one matrix at a time in float32. The result
event has `pictures`, `rows` and `seconds`.
"""

import argparse
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from common.reporting import Reporter, ScriptError, run
from gate.drawing import QUESTION, Drawing, drawings, thumbnail
from gate.logits import save_logits
from gate.scenes import Scene, save, save_arrays
from reference import load
from vision.families import family_of


def scenes_of(tokenizer: Any, sight: Any, drawn: list[Drawing]) -> list[Scene]:
    """The pictures with their tokens."""
    said = message(tokenizer, sight, QUESTION)
    if sight.place not in said:
        raise ScriptError("template", f"the chat template loses the place {sight.place}")
    before, _, after = said.partition(sight.place)

    def tokens(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    made = []
    for drawing in drawn:
        height, width = (size // sight.side for size in drawing.pixels.shape[:2])
        start = tokens(before)
        for piece in sight.pieces(height, width):
            start += tokens(piece) if isinstance(piece, str) else [-1] * piece
        start += tokens(after)
        made.append(
            Scene(
                thumbnail(drawing.pixels), QUESTION, drawing.answer, height, width,
                start + tokens(drawing.answer), len(start) - 1,
            )
        )  # fmt: skip
    alike = [n for n, scene in enumerate(made) if (scene.height, scene.width) == (1, 1)]
    for number, other in zip(alike, [*alike[1:], alike[0]], strict=True):
        made[number].other = other
    return made


def message(tokenizer: Any, sight: Any, question: str) -> str:
    """The text of a prompt about a picture, up to where the answer begins."""
    if not tokenizer.chat_template:
        return f"{sight.place}\n{question}\n"
    chat = [{"role": "user", "content": sight.content(question)}]
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def read(model: Any, scene: Scene, features: np.ndarray) -> np.ndarray:
    """The reference's logits of a picture's answer."""
    import torch

    ids = torch.tensor([scene.tokens])
    with torch.inference_mode():
        rows = model.get_input_embeddings()(ids.clamp(min=0)).float().clone()
        rows[ids < 0] = torch.from_numpy(features)
        logits = model(inputs_embeds=rows, use_cache=False).logits
    return logits[0, scene.first : len(scene.tokens) - 1].numpy()


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write the folder; return the result event."""
    started = time.monotonic()
    reporter.progress("the reference looks at pictures")
    from transformers import AutoTokenizer

    args.out.mkdir(parents=True, exist_ok=True)
    family = family_of(args.source)
    if family is None:
        raise ScriptError("config", "config.json is of no model that takes pictures")
    sight = resolve_name(family.looks)(args.source)
    drawn = drawings(sight.side)
    scenes = scenes_of(AutoTokenizer.from_pretrained(args.source), sight, drawn)
    seen, features = [], []
    for number, (drawing, scene) in enumerate(zip(drawn, scenes, strict=True)):
        reporter.progress("the reference looks at pictures", number / len(drawn))
        seen.append(sight.views(drawing.pixels))
        features.append(sight.features(seen[-1], scene.height, scene.width))
    del sight
    reporter.progress("loading the reference")
    model = load(args.source, None, mapped=args.mapped)
    for number, scene in enumerate(scenes):
        reporter.progress("the reference reads their answers", number / len(scenes))
        save_logits(args.out, number, read(model, scene, features[number]))
        swapped = np.zeros((0, 1), np.float32)
        if scene.other >= 0:
            swapped = read(model, scene, features[scene.other])
        save_arrays(
            args.out, number, views=seen[number], features=features[number], swapped=swapped
        )
    save(args.out, scenes)
    return {
        "pictures": len(scenes),
        "rows": sum(len(f) for f in features),
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mapped", action="store_true")
    run(parser, work)

"""Computes what full precision makes of pictures: features, and logits of fixed answers.

    python picture_reference.py --source FOLDER --out FOLDER [--mapped]

FOLDER is a source whose config.json is that of the text part (`builder/support/pictures.py`).
`gate/scenes.py` defines the output. `--mapped` holds one matrix at a time in float32. The result
event has `pictures`, `rows` and `seconds`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common.reporting import Reporter, ScriptError, run
from gate.drawing import QUESTION, SIDE, drawings, thumbnail
from gate.logits import save_logits
from gate.scenes import Scene, save, save_arrays
from reference import load

PLACE = "<|image_1|>"
"""What Microsoft's processor replaces by a picture's rows."""


def scenes_of(tokenizer: Any, rows: list[int]) -> list[Scene]:
    """The pictures with their tokens.

    Args:
        rows: number of rows of each picture.
    """
    said = f"{PLACE}\n{QUESTION}"
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": said}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    else:
        text = f"{said}\n"
    if PLACE not in text:
        raise ScriptError("template", f"the chat template loses the place {PLACE} of a picture")
    before, _, after = text.partition(PLACE)

    def tokens(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    made = []
    for drawing, count in zip(drawings(), rows, strict=True):
        start = tokens(before) + [-1] * count + tokens(after)
        height, width = (size // SIDE for size in drawing.pixels.shape[:2])
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
    from gate.sight import Sight, views
    from transformers import AutoTokenizer

    args.out.mkdir(parents=True, exist_ok=True)
    sight = Sight(args.source)
    seen, features = [], []
    for number, drawing in enumerate(drawings()):
        reporter.progress("the reference looks at pictures", number / len(drawings()))
        seen.append(views(drawing.pixels))
        height, width = (size // SIDE for size in drawing.pixels.shape[:2])
        features.append(sight.features(seen[-1], height, width))
    del sight
    reporter.progress("loading the reference")
    scenes = scenes_of(AutoTokenizer.from_pretrained(args.source), [len(f) for f in features])
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

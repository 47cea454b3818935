"""Measures what a built model makes of pictures, against `picture_reference.py`.

    python score_pictures.py --model FOLDER --reference FOLDER

The result event has `pictures`, one object for each (`builder/gate/pictures.py`). A model that does
not load is a result, not an error.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common.reporting import Reporter, run
from gate.logits import compare, load_logits
from gate.runtime import refusal
from gate.scenes import Scene, load, load_arrays
from gate.seeing import SeeingModel


def measured(model: SeeingModel, folder: Path, number: int, scenes: list[Scene]) -> dict[str, Any]:
    """The figures of one picture."""
    scene, arrays = scenes[number], load_arrays(folder, number)
    wanted, targets = load_logits(folder, number), scene.targets
    own = model.features(arrays["views"], scene.height, scene.width)
    off = np.linalg.norm(own - arrays["features"]) / np.linalg.norm(arrays["features"])
    answers = slice(scene.first, len(scene.tokens) - 1)
    said = model.logits(scene.tokens, own)[answers]
    exact = model.logits(scene.tokens, arrays["features"])[answers]
    both, text = compare(wanted, said, targets), compare(wanted, exact, targets)
    found = {
        "png": scene.png,
        "question": scene.question,
        "answer": scene.answer,
        "tokens": sum(token < 0 for token in scene.tokens),
        "feature_error": float(off),
        "kl": float(both.kl.mean()),
        "kl_text": float(text.kl.mean()),
        "first_same": bool(both.same[0]),
        "swap": None,
        "reference_swap": None,
    }
    if scene.other >= 0:
        other = load_arrays(folder, scene.other)["views"]
        swapped = model.logits(
            scene.tokens, model.features(other, scene.height, scene.width)
        )[answers]  # fmt: skip
        found["swap"] = float(compare(said, swapped, targets).kl.mean())
        found["reference_swap"] = float(compare(wanted, arrays["swapped"], targets).kl.mean())
    return found


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure every picture; return the result event."""
    reporter.progress("loading the model")
    scenes = load(args.reference)
    try:
        model = SeeingModel(args.model)
    except Exception as error:  # whatever the runtime raises
        return refusal(error)
    found = []
    for number in range(len(scenes)):
        reporter.progress("the model looks at pictures", number / len(scenes))
        found.append(measured(model, args.reference, number, scenes))
    return {"loads": True, "pictures": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    run(parser, work)

"""Counts layouts of pictures whose features and answers are torch's, by every way to compute them.

The checkpoints are tiny, with the exact names of Phi-3.5-vision and of SmolVLM. Each layout of
pictures is computed by the whole vision graph and view by view. The answers are greedy tokens after
text alone, and after pictures of five shapes; INT4 text is compared with torch on the dequantised
weights.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.builder.make.told import as_told
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import INSIDE
from tests.building import run_script, silent
from tests.pictured import (
    LAYOUTS,
    Floats,
    Seeing,
    Shown,
    arrays_of,
    checkpoint,
    features,
    ids_of,
    lone_noise,
    noise,
    one_by_one,
    torch_says,
)
from tests.show import Figures

TOLERANCE = 1e-4
ANSWERS = ("square", "wide", "tall", "one crop", "two pictures", "text")
SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    **LAYOUTS, "two pictures": ((1, 2), (1, 1)), "text": (),
}  # fmt: skip
LONE = {"sixteen crops": 17, "wide": 9, "tall": 4, "one crop": 1, "four crops": 5,
        "three pictures": 11}  # fmt: skip
"""Name -> views, of a family whose views know nothing of each other."""
LONE_ANSWERS = ("sixteen crops", "wide", "tall", "one crop", "two pictures", "text")
FAMILIES = ("phi3v", "smolvlm")
TOKENS = 12
BUILDS: dict[str, dict[str, object]] = {
    "fp32": {"precision": "fp32"},
    # exact activations: what is compared is the weights and the way to them
    "int4": {
        "options": ("algo_config=k_quant", "accuracy_level=1"), "precision": "int4",
        "vision_precision": "fp32",
    },
}  # fmt: skip


@dataclass
class Layouts:
    """What was compared.

    Attributes:
        features: layouts, each whole and view by view.
        answers: builds and shapes whose greedy tokens are equal.
        different: names of what is not equal.
        worst_feature, worst_logit: largest absolute differences.
    """

    features: int
    answers: int
    different: list[str]
    worst_feature: float
    worst_logit: float


def compared(
    python: Path,
    work: Path,
    answers: tuple[str, ...] = (),
    layouts: tuple[str, ...] = (),
    family: str = "phi3v",
) -> Layouts:
    """Build the tiny model and compare it.

    Args:
        work: an empty folder.
        answers: shapes whose answers are compared; none for all.
        layouts: those whose features are; none for all.
    """
    source = checkpoint(python, work / "source", family=family)
    pictures: dict[str, Shown]
    if family == "phi3v":
        pictures = {name: noise(crops, 7) for name, crops in SHAPES.items() if crops}
        seen, answers = layouts or tuple(LAYOUTS), answers or ANSWERS
    else:
        counts = {**LONE, "two pictures": 6}
        pictures = {name: lone_noise(count, 7) for name, count in counts.items()}
        seen, answers = layouts or tuple(LONE), answers or LONE_ANSWERS
    found = Layouts(0, 0, [], 0.0, 0.0)
    for name, how in BUILDS.items():
        out = work / name
        build(BuildRequest(str(source), out, gate=None, **how), silent)  # type: ignore[arg-type]  # of BuildRequest
        text = None
        if name == "int4":
            text = work / "dequantised"
            (work / "view").mkdir()
            told, _ = as_told(source, work / "view")
            run_script(python, "models/dequantised_text.py", INSIDE, out, told, text)
        model = Seeing(out)
        cases: dict[str, npt.NDArray[np.generic]] = {}
        every = [*(f"features of {each}" for each in seen if name == "fp32"), *answers]
        for number, case in enumerate(every):
            views = pictures.get(case.removeprefix("features of "))
            if views:
                cases |= arrays_of(views, number)
            if case in answers:
                cases[f"ids_{number}"] = np.array(ids_of(views), np.int64)
                cases[f"greedy_{number}"] = np.array(TOKENS)
        said = torch_says(python, source, cases, work, text, family)
        for number, case in enumerate(every):
            views = pictures.get(case.removeprefix("features of "))
            if case not in answers:
                assert views
                _features(found, case, model, views, said[f"features_{number}"])
                continue
            rows = features(model.vision, views) if views else None
            logits, tokens = model.answer(ids_of(views), rows, TOKENS)
            wanted = said[f"logits_{number}"].astype(np.float32)
            off = float(np.abs(logits - wanted).max())
            found.worst_logit = max(found.worst_logit, off)
            if tokens == said[f"tokens_{number}"].tolist():
                found.answers += 1
            else:
                found.different.append(f"{name}: {case}")
    return found


def _features(
    found: Layouts, case: str, model: Seeing, views: Shown, said: npt.NDArray[np.generic]
) -> None:
    wanted: Floats = said.astype(np.float32)
    for way, rows in (
        ("whole", features(model.vision, views)),
        ("view by view", one_by_one(model.vision, views)),
    ):
        off = float(np.abs(rows - wanted).max())
        found.worst_feature = max(found.worst_feature, off)
        if off <= TOLERANCE:
            found.features += 1
        else:
            found.different.append(f"{case}, {way}")


def count() -> tuple[Figures, bool]:
    """The figures, and whether everything was equal."""
    python, figures, different = HostToolchain().ready(silent).python, Figures(), list[str]()
    for family, layouts, answers in zip(
        FAMILIES, (tuple(LAYOUTS), tuple(LONE)), (ANSWERS, LONE_ANSWERS), strict=True
    ):
        with tempfile.TemporaryDirectory() as folder:
            found = compared(python, Path(folder), family=family)
        figures |= {
            f"{family}_layouts": f"{found.features}/{2 * len(layouts)}",
            f"{family}_worst_feature": f"{found.worst_feature:.1e}",
            f"{family}_answers": f"{found.answers}/{len(BUILDS) * len(answers)}",
            f"{family}_worst_logit": f"{found.worst_logit:.1e}",
        }
        different += [f"{family}: {each}" for each in found.different]
    figures["different"] = ",".join(different) or 0
    return figures, not different

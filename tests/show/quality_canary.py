"""The quality canary before good rebuilds and before damage that the gate lets through.

The model is SmolLM2-135M in INT4, as the tests have it (k_quant, blocks of 32, int8 products). It
answers the golden questions; these answers are walked under each other release, as on a device.

Good are 20 rebuilds of the same source: ten ways to quantise it, each with int8 and with float32
products, and each of the ten ways before itself with the other products. Those that are made with
the model builder stay in the cache: the first run takes longer. Damaged are 20 releases with one
layer, matrix or norm changed (`faults/plant_quality.py`), each of which the gate passes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import PROFILES
from edgekit.builder.output.publish import read_record
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.host import HostRunner, HostToolchain
from edgekit.core.quality import QualityBound, QualityReport, QualityScore, Sample, objection_to
from edgekit.data import cache_root
from tests.building import AS_INSTALLED, edgekit_build, run_script, silent
from tests.faults.plant_quality import DAMAGE
from tests.harness.quality import baseline, compared
from tests.linted import dequantised_smollm2
from tests.show import Figures
from tests.show.planted import EFFORT, built_smollm2

OWN = "k_quant-32"
WAYS = (
    OWN,
    *("k_quant-16", "k_quant_last-32", "k_quant_linear-32", "k_quant_mixed-32"),
    *("k_quant_last-16", "k_quant_linear-16", "k_quant_mixed-16"),
    *("rtn_last-16", "rtn-16", "default-16", "rtn_last-32", "rtn-32", "default-32", "default-64"),
)
"""Algorithm and block size of the model builder; the first ten that the gate passes are good."""
WAYS_WANTED = 10
KERNELS = "other_kernels"
WANTED = 20


@dataclass
class Compared:
    """How releases compare with one before them, by name."""

    scores: dict[str, QualityScore] = field(default_factory=dict)

    def add(self, name: str, score: QualityScore) -> None:
        self.scores[name] = score
        print(f"  {name:20} {score}", file=sys.stderr, flush=True)

    def paused(self, *, rebuilt: bool) -> list[str]:
        """Those that pause a rollout with the default bound."""
        reports = {
            name: QualityReport(name, score=score, rebuilt=rebuilt)
            for name, score in self.scores.items()
        }
        bound = QualityBound()
        return [name for name, report in reports.items() if objection_to(report, bound)]

    def figures(self, name: str) -> Figures:
        """The distribution of what the bound looks at."""
        found = list(self.scores.values())
        return {
            f"{name}_kl": _spread([each.kl for each in found], 4),
            f"{name}_agreement": _spread([each.agreement for each in found], 3),
            f"{name}_length": _spread([each.length_ratio for each in found], 2),
            f"{name}_loops": _spread([each.loops_added for each in found], 2),
        }


def count() -> tuple[Figures, bool]:
    """The figures, and whether no good rebuild pauses a rollout and most of the damage does."""
    started = time.monotonic()
    ways: dict[str, Path] = {}
    bad_ways = []
    for way in WAYS:
        if len(ways) == WAYS_WANTED:
            break
        if (model := built(way)) is None:
            bad_ways.append(way)
        else:
            ways[way] = model
    if not passes_gate(ways[OWN], ways[OWN]):
        raise RuntimeError("on so few texts the gate refuses the sound build, too")
    samples = baseline(ways[OWN])
    good, same, damaged = Compared(), Compared(), Compared()
    refused: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-quality.") as folder:
        for way, model in ways.items():
            other = planted(model, Path(folder), KERNELS)
            good.add(way, compared(samples, model))
            good.add(f"{way}/{KERNELS}", compared(samples, other))
            own = good.scores[f"{way}/{KERNELS}"]
            same.add(way, own if way == OWN else compared(baseline(model), other))
            shutil.rmtree(other)
        damaged, refused = damage(ways[OWN], samples, Path(folder), tuple(DAMAGE), WANTED)
    # A damaged copy has the source and the recipe of the release before it, and so has each way
    # with other kernels; two ways have not.
    alarms = [*good.paused(rebuilt=False), *same.paused(rebuilt=True)]
    detected = damaged.paused(rebuilt=True)
    figures: Figures = {
        "good": len(good.scores),
        "ways_refused_by_gate": ",".join(bad_ways) or 0,
        "false_alarms": len(alarms),
        "damaged": len(damaged.scores),
        "detected": len(detected),
        "same_way": len(same.scores),
        "refused_by_gate": ",".join(refused) or 0,
        "missed": ",".join(name for name in damaged.scores if name not in detected) or 0,
        **good.figures("good"),
        **same.figures("same"),
        **damaged.figures("damaged"),
        "seconds": round(time.monotonic() - started),
    }
    whole = len(good.scores) == len(damaged.scores) == WANTED
    return figures, whole and not alarms and len(detected) > WANTED // 2


def damage(
    model: Path, samples: list[Sample], work: Path, names: Sequence[str], most: int
) -> tuple[Compared, list[str]]:
    """Compare damaged copies that the gate passes; also the names of those that it refuses."""
    found, refused = Compared(), []
    for name in names:
        if len(found.scores) == most:
            break
        other = planted(model, work, name)
        if passes_gate(other, model):
            found.add(name, compared(samples, other))
        else:
            refused.append(name)
        shutil.rmtree(other)
    return found, refused


def planted(model: Path, work: Path, name: str) -> Path:
    """A copy of a model with this change."""
    python = HostToolchain().ready(silent).python
    run_script(python, "faults/plant_quality.py", model, work, name)
    return work / name


def passes_gate(model: Path, like: Path) -> bool:
    """Whether the gate lets a model through, on fewer texts than a build has."""
    record = read_record(like)
    assert record is not None
    runner = HostRunner(HostToolchain().ready(silent).python)
    gate = assess(
        Subject(model, dequantised_smollm2(), record.spec), PROFILES["small"], runner, silent,
        effort=EFFORT, attribution=False, sensitivity=False,
    )  # fmt: skip
    return gate.verdict.passed


def built(way: str) -> Path | None:
    """SmolLM2 in one of the ways, in the cache; None if the gate refuses it."""
    if way == OWN:
        return built_smollm2()
    out = cache_root() / "tests" / "canary" / way
    if out.exists():
        return out
    algorithm, _, block = way.rpartition("-")
    half = out.with_name(f".{way}.half")
    shutil.rmtree(half, ignore_errors=True)
    options = ("-x", f"algo_config={algorithm}", "-x", f"block_size={block}")
    done = edgekit_build(
        "--host", "-m", smollm2_gguf(), "-o", half, "--no-gate", "--json", *options, **AS_INSTALLED
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    if not passes_gate(half, built_smollm2()):
        shutil.rmtree(half)
        return None
    return half.rename(out)


def _spread(values: Sequence[float], decimals: int) -> str:
    """The least, the median and the largest."""
    return "/".join(f"{value:.{decimals}f}" for value in (min(values), median(values), max(values)))

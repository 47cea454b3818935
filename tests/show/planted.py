"""Plants every known fault and counts what the lint finds by name, and the gate where only it can.

Structural faults and differences from the source go into a tiny model; the faults of the field, and
those of quality, into SmolLM2. Every recipe of the tiny models has to pass.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from edgekit.builder.gate.effort import Effort
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import PROFILES
from edgekit.builder.lint.check import compare
from edgekit.builder.lint.source import unlike_source
from edgekit.builder.output.publish import read_record
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.host import HostRunner, HostToolchain
from edgekit.data import cache_root
from tests import warm
from tests.building import AS_INSTALLED, edgekit_build, run_script, silent
from tests.faults.plant import DEFECTS as QUALITY
from tests.faults.plant_source import FAULTS, FOR_THE_GATE
from tests.linted import (
    OTHERS,
    RECIPES,
    TIED,
    TOGETHER,
    UNSOUND,
    Bench,
    dequantised_smollm2,
    make_bench,
    refused,
)
from tests.show import Figures

EFFORT = Effort(prompts=6, tokens=40, greedy=2, greedy_tokens=16)


class Tally:
    """What was planted, and what found it."""

    def __init__(self) -> None:
        self.planted = self.by_lint = self.by_gate = 0
        self.missed: list[str] = []

    def linted(self, fault: str, names: set[str], wanted: str) -> None:
        """Note what the lint said of a fault; `wanted` is its finding, any where it is empty."""
        self.planted += 1
        if wanted in names or (not wanted and names):
            self.by_lint += 1
        else:
            self.missed.append(fault)

    def gated(self, fault: str, passed: bool) -> None:
        """Note what the gate said of a fault that the lint cannot see."""
        self.planted += 1
        if passed:
            self.missed.append(fault)
        else:
            self.by_gate += 1


def count() -> tuple[Figures, bool]:
    """The figures, and whether nothing was missed and no healthy build refused."""
    started = time.monotonic()
    tally = Tally()
    smollm2 = built_smollm2()
    with tempfile.TemporaryDirectory() as folder, _warm(Path(folder)):
        bench = make_bench(HostToolchain().ready(silent).python, Path(folder) / "tiny")
        refusals = _healthy(bench, Path(folder))
        _tiny(bench, tally, Path(folder))
        _real(bench, smollm2, tally, Path(folder))
    figures: Figures = {
        "planted": tally.planted,
        "found_by_lint": tally.by_lint,
        "found_by_gate": tally.by_gate,
        "missed": ",".join(tally.missed) or 0,
        "healthy": len(RECIPES) + len(TIED) - len(UNSOUND) + len(OTHERS),
        "healthy_refused": ",".join(refusals) or 0,
        "seconds": round(time.monotonic() - started),
    }
    return figures, not tally.missed and not refusals


@contextmanager
def _warm(folder: Path) -> Iterator[None]:
    """A toolchain that has imported torch already."""
    before = os.environ.get("XDG_CACHE_HOME")
    with warm.toolchain(folder / "warm") as caches:
        os.environ["XDG_CACHE_HOME"] = str(caches)
        try:
            yield
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def built_smollm2() -> Path:
    """SmolLM2 as the tests have it, in the cache."""
    out = cache_root() / "tests" / "smollm2"
    arguments = ("--host", "-m", smollm2_gguf(), "-o", out, "--gate", "small", "--json")
    done = edgekit_build(*arguments, **AS_INSTALLED)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return out


def _healthy(bench: Bench, work: Path) -> list[str]:
    """The recipes that are refused although nothing is wrong with them."""
    found = []
    for family, recipes in (("qwen2", tuple(RECIPES)), ("gemma", TIED)):
        for recipe in recipes:
            if (family, recipe) in UNSOUND:
                continue
            model, asked = bench.built(family, recipe), bench.asked(family, recipe)
            if refused(bench.lint(model, asked, work, bench.folder / family)):
                found.append(f"{family}/{recipe}")
    return found


def _tiny(bench: Bench, tally: Tally, work: Path) -> None:
    plain, asked = bench.built("qwen2", "plain"), bench.asked("qwen2", "plain")
    for fault, (name, _, family, recipe) in FAULTS.items():
        with _copy(bench.built(family, recipe), work) as model:
            bench.run("faults/plant_source.py", model, fault)
            tally.linted(fault, _unlike(bench, model, bench.folder / family, work), name)
    for fault in _structural():
        with _copy(plain, work) as model:
            bench.run("faults/plant_structure.py", model, fault)
            tally.linted(fault, refused(bench.lint(model, asked, work)), "")


def _unlike(bench: Bench, model: Path, source: Path, work: Path) -> set[str]:
    runner = HostRunner(bench.python)
    return refused(tuple(unlike_source(compare(model, source, runner, work, silent))))


def _structural() -> list[str]:
    text = (Path(__file__).parents[1] / "faults" / "plant_structure.py").read_text("utf-8")
    lines = text.splitlines()
    return [
        after.removeprefix("def ").split("(")[0].replace("_", "-")
        for line, after in pairwise(lines)
        if line == "@defect"
    ]


def _real(bench: Bench, smollm2: Path, tally: Tally, work: Path) -> None:
    record = read_record(smollm2)
    assert record is not None
    source, runner = dequantised_smollm2(), HostRunner(bench.python)
    for fault in TOGETHER:
        with _copy(smollm2, work) as model:
            bench.run("faults/plant_source.py", model, fault)
            tally.linted(
                f"smollm2:{fault}", _unlike(bench, model, source, work), FAULTS[fault].finding
            )
    for fault in QUALITY:
        with _copy(smollm2, work) as model:
            other = bench.folder / "qwen2"
            run_script(bench.python, "faults/plant.py", fault, model, "--other", other)
            tally.linted(f"smollm2:{fault}", _unlike(bench, model, source, work), "")
    for fault in FOR_THE_GATE:
        with _copy(smollm2, work) as model:
            bench.run("faults/plant_source.py", model, fault)
            if names := _unlike(bench, model, source, work):
                tally.linted(f"smollm2:{fault}", names, "")
                continue
            gate = assess(
                Subject(model, source, record.spec), PROFILES["small"], runner, silent,
                effort=EFFORT, attribution=False, sensitivity=False,
            )  # fmt: skip
            tally.gated(f"smollm2:{fault}", gate.verdict.passed)


@contextmanager
def _copy(model: Path, work: Path) -> Iterator[Path]:
    """A copy of a model to plant a fault into."""
    place = work / "planted" / "model"
    shutil.copytree(model, place)
    try:
        yield place
    finally:
        shutil.rmtree(place.parent)

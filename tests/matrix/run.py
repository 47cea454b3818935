"""Makes the checkpoints, builds them with edgekit's own pipeline and has them compared.

Nothing here aborts the matrix: whatever goes wrong with a case is the reason in its row.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgekit.builder.make.convert import convert
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.spec import BuildSpec, Precision, Provider, Source
from edgekit.builder.support.architectures import support_of
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import OFFLINE
from edgekit.errors import EdgekitError
from tests.building import silent
from tests.matrix.families import Family
from tests.matrix.row import Row, judged
from tests.pictured import (
    Seeing,
    Shown,
    arrays_of,
    features,
    ids_of,
    lone_noise,
    noise,
    one_by_one,
    torch_says,
)

HERE = Path(__file__).parent
MAKE = HERE.parent / "models" / "make_tiny_model.py"
COMPARE = HERE / "inside" / "compare.py"
MAKE_SECONDS = 600
COMPARE_SECONDS = 300
PICTURES = ((1, 2), (2, 1))
LONE_VIEWS = 8  # of two pictures: 2 x 2 crops and the whole, 2 x 1 and the whole
GENERATED = 8


class Bench(msgspec.Struct, frozen=True):
    """Where it all happens.

    Attributes:
        folder: takes checkpoints and models.
        toolchain: the host's.
    """

    folder: Path
    toolchain: HostToolchain

    def python(self, script: Path, *arguments: str | Path, seconds: float) -> str:
        """Run a script with the toolchain's interpreter; what it printed.

        Raises:
            EdgekitError: it failed.
        """
        argv = [self.toolchain.ready(silent).python, "-E", "-s", script, *arguments]
        environment = {**os.environ, **OFFLINE, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [*map(str, argv)],
                capture_output=True,
                text=True,
                timeout=seconds,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EdgekitError(f"{script.name} did not end within {seconds:.0f} s") from error
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["without a word"]
            raise EdgekitError(f"{script.name} ended with {done.returncode}", why=lines[-1])
        return done.stdout

    def build(self, source: Path, name: str, **how: Any) -> Path:
        """A model made from a checkpoint, ungated.

        Args:
            name: of the folder, beside the checkpoint.
            how: more of the request.
        """
        out = source.parent / name
        build(BuildRequest(str(source), out, gate=None, **how), silent, self.toolchain)
        return out

    def convert(self, source: Path, name: str, precision: str, provider: str = "cpu") -> Path:
        """The same by the model builder alone, for what the pipeline refuses."""
        work = source.parent / f"{name}-alone"
        work.mkdir()
        spec = BuildSpec(
            source=Source("folder", source.name, "", {}),
            precision=msgspec.convert(precision, Precision),
            provider=msgspec.convert(provider, Provider),
            options={},
            option_files={},
            toolchain=self.toolchain.digest,
        )
        runner = self.toolchain.ready(silent)
        return convert(runner, source, spec, {}, work, silent, route="stock").folder

    def compare(
        self, source: Path, models: dict[str, Path], adapter: Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """What `inside/compare.py` says of each model."""
        out = source.parent / "compare.json"
        out.unlink(missing_ok=True)
        words = [
            word for name, folder in models.items() for word in ("--model", f"{name}={folder}")
        ]
        more = ["--adapter", str(adapter)] if adapter else []
        try:
            self.python(
                COMPARE, "--source", source, "--out", out, *words, *more, seconds=COMPARE_SECONDS
            )
        except EdgekitError:
            if not out.is_file():  # else it names the model that it crashed with
                raise
        found: dict[str, dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
        return {name: found.get(name, {"error": "not reached"}) for name in models}


def make_checkpoints(
    bench: Bench, families: Sequence[Family], listed_in: str = "families.json"
) -> dict[str, tuple[Path, str]]:
    """Family's name -> its folder, and why it could not be made (empty when it was)."""
    wanted = {f.name: bench.folder / _slug(f.name) / "source" for f in families if f.config}
    entries = [
        {
            "out": str(wanted[f.name]),
            "architecture": f.architecture,
            "config": f.config,
            "values": f.values,
            "edit": f.edit,
        }
        for f in families
        if f.config and not f.pictures
    ]
    listed = bench.folder / listed_in
    listed.write_bytes(msgspec.json.encode(entries))
    said = bench.python(MAKE, "--many", listed, seconds=MAKE_SECONDS)
    results = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    errors = {Path(result["out"]): str(result["error"]) for result in results}
    for family in families:
        if family.pictures:
            folder = wanted[family.name]
            errors[folder] = _made_with_pictures(bench, family, folder)
    return {name: (folder, errors.get(folder, "not made")) for name, folder in wanted.items()}


def _made_with_pictures(bench: Bench, family: Family, folder: Path) -> str:
    """Why the checkpoint could not be made; empty when it was."""
    make = MAKE.with_name(f"make_{family.pictures}.py")
    try:
        bench.python(make, folder, *family.shape, seconds=MAKE_SECONDS)
    except EdgekitError as error:
        return reason(error)
    return ""


def run_family(bench: Bench, family: Family, source: Path) -> Row:
    """Build a family in FP32 and INT4, and compare."""
    if family.pictures:
        return run_pictures(bench, family, source)
    found: dict[str, dict[str, Any]] = {}
    models: dict[str, Path] = {}
    for precision in ("fp32", "int4"):
        refusal = refusal_of(source, precision, "cpu")
        found[precision] = {"refused": refusal} if refusal else {}
        try:
            make = bench.convert if refusal else bench.build
            models[precision] = make(source, precision, precision=precision)
        except EdgekitError as error:
            found[precision]["error"] = reason(error)
    try:
        said = bench.compare(source, models) if models else {}
    except EdgekitError as error:
        said = {name: {"error": reason(error)} for name in models}
    for name, result in said.items():
        found[name] |= result
    return judged(family.name, "architecture", found["fp32"], found["int4"], family.note)


def run_pictures(bench: Bench, family: Family, source: Path) -> Row:
    """The same for a model that takes pictures: answers after two of them, against torch."""
    views: Shown = noise(PICTURES) if family.pictures == "phi3v" else lone_noise(LONE_VIEWS)
    ids = ids_of(views)
    python = bench.toolchain.ready(silent).python
    cases: dict[str, npt.NDArray[np.generic]] = {
        **arrays_of(views, 0), "ids_0": np.array(ids, np.int64), "greedy_0": np.array(GENERATED),
    }  # fmt: skip
    said = torch_says(python, source, cases, source.parent, family=family.pictures)
    wanted = said["logits_0"].astype(np.float32)
    scale = float(wanted.std())
    found: dict[str, dict[str, Any]] = {}
    for precision in ("fp32", "int4"):
        try:
            model = Seeing(bench.build(source, precision, precision=precision))
        except EdgekitError as error:
            found[precision] = {"error": reason(error)}
            continue
        rows = features(model.vision, views)
        got, tokens = model.answer(ids, rows, GENERATED)
        alone = one_by_one(model.vision, views)
        stepwise, _ = model.answer(ids, alone, 1)
        found[precision] = {
            "difference": float(np.abs(got - wanted).max()) / scale,
            "stepwise": float(np.abs(stepwise - wanted).max()) / scale,
            "cosine": float((got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)),
            "tokens": tokens,
            "inside": all(0 <= token < wanted.shape[-1] for token in tokens),
        }
    return judged(family.name, "architecture", found["fp32"], found["int4"], family.note)


def refusal_of(source: Path, precision: str, provider: str) -> str:
    """What edgekit's plan says against a build; empty where it says nothing."""
    config = msgspec.json.decode((source / "config.json").read_bytes(), type=dict[str, Any])
    refusal = support_of(config, precision, provider).refusal
    return refusal.what if refusal else ""


def reason(error: EdgekitError) -> str:
    """An error in one line."""
    return " ".join(": ".join(part for part in (error.what, error.why) if part).split())


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()

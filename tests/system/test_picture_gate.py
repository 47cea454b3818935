"""The gate looks at pictures: sound builds pass, and a model that looks away does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.builder.gate.effort import Effort
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.page import page
from edgekit.builder.gate.verdict import PROFILES, GateReport
from edgekit.builder.make.told import as_told
from edgekit.builder.output.publish import read_record
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostRunner
from tests.building import silent
from tests.pictured import change_tensor, checkpoint, graphs

pytestmark = pytest.mark.timeout(600)
EFFORT = Effort(prompts=2, tokens=8, greedy=2, greedy_tokens=8, long=96)
RUNGS = (("fp32", "fp32"), ("int4", "fp32"), ("int4", "int8"))


@pytest.fixture(scope="module")
def source(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(python, tmp_path_factory.mktemp("phi3v") / "source")


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("built")
    return {
        (text, vision): build(
            BuildRequest(
                str(source), folder / f"{text}-{vision}", precision=text, vision_precision=vision,
                gate=None,
            ),
            silent,
        ).out
        for text, vision in RUNGS
    }  # fmt: skip


def gated(model: Path, source: Path, python: str, work: Path) -> GateReport:
    record = read_record(model)
    assert record is not None
    told, _ = as_told(source, work)
    subject = Subject(model, told, record.spec, None, told)
    runner = HostRunner(Path(python))
    return assess(
        subject, PROFILES["small"], runner, silent,
        effort=EFFORT, attribution=False, sensitivity=False,
    )  # fmt: skip


@pytest.mark.parametrize("rung", RUNGS)
def test_a_sound_build_passes_and_its_report_shows_the_pictures(
    rung: tuple[str, str],
    built: dict[tuple[str, str], Path],
    source: Path,
    python: str,
    tmp_path: Path,
) -> None:
    report = gated(built[rung], source, python, tmp_path)
    assert report.verdict.passed, report.verdict.findings
    pictures = report.pictures
    assert pictures is not msgspec.UNSET
    assert len(pictures.scores) >= 8
    assert len({score.png for score in pictures.scores}) == len(pictures.scores)
    assert {score.tokens for score in pictures.scores} == {313, 457, 469}
    # another picture changes the answer, and as much as full precision's
    assert pictures.swap is not None
    assert pictures.swap > 0.7
    swapped = [score for score in pictures.scores if score.reference_swap is not None]
    assert len(swapped) == 6
    assert all((score.reference_swap or 0) > 0.01 for score in swapped)
    text, vision = rung
    if text == "fp32":
        assert pictures.kl < 1e-5
        assert pictures.first == 1
    if vision == "fp32":
        assert pictures.feature_error < 1e-4
        assert pictures.kl == pytest.approx(pictures.kl_text, abs=1e-5)
    else:
        assert 1e-3 < pictures.feature_error < 0.1
    html = page("Phi", report)
    assert len(re.findall(r'<img alt="" src="data:image/png;base64,[\w+/=]+">', html)) == 8


def test_a_model_that_looks_away_is_refused(
    built: dict[tuple[str, str], Path], source: Path, python: str, tmp_path: Path
) -> None:
    """Its features are the same whatever it sees, and its answers too."""
    blind = tmp_path / "blind"
    shutil.copytree(source, blind)
    change_tensor(
        blind, "model.vision_embed_tokens.img_projection.2.weight", lambda bits: bits.fill(0)
    )
    model = tmp_path / "model"
    shutil.copytree(built["fp32", "fp32"], model)
    assert graphs(python, blind, tmp_path / "graphs").returncode == 0
    for file in (tmp_path / "graphs").iterdir():
        shutil.copyfile(file, model / file.name)
    report = gated(model, source, python, tmp_path)
    assert not report.verdict.passed
    names = {finding.name for finding in report.verdict.findings}
    assert {"picture_features", "picture_swap"} <= names
    assert report.pictures is not msgspec.UNSET
    assert report.pictures.swap == 0


def test_a_model_with_half_blind_crops_is_refused(
    built: dict[tuple[str, str], Path], source: Path, python: str, tmp_path: Path
) -> None:
    """One patch in two of its places is wrong, which no text shows."""
    wrong = tmp_path / "wrong"
    shutil.copytree(source, wrong)

    def change(bits: np.ndarray) -> None:
        bits.reshape(577, -1)[1::2] = 0

    tower = "model.vision_embed_tokens.img_processor.vision_model.embeddings"
    change_tensor(wrong, f"{tower}.position_embedding.weight", change)
    model = tmp_path / "model"
    shutil.copytree(built["fp32", "fp32"], model)
    assert graphs(python, wrong, tmp_path / "graphs").returncode == 0
    for file in (tmp_path / "graphs").iterdir():
        shutil.copyfile(file, model / file.name)
    report = gated(model, source, python, tmp_path)
    assert "picture_features" in {finding.name for finding in report.verdict.findings}
    assert report.metrics.kl_mean < 1e-5  # the text alone is what it was

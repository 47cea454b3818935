"""What a refused or failed build says, and that no measurement beside it takes its place."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.attempt import way_out
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import PROFILES, GateMetrics, GateReport, Verdict, Violation
from edgekit.builder.lint import check
from edgekit.builder.spec import BuildSpec, Source
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import ProcessResult
from edgekit.builder.tools.progress import ProgressCallback
from tests.building import silent

ABOVE = (
    "RuntimeError: We encountered some issues during automatic conversion of the weights. "
    "For details look at the above report!"
)
REPORT = """\x1b[1mLlamaForCausalLM LOAD REPORT\x1b[0m from: source
Key | Status | Details
----+--------+--------
model.norm.weight | \x1b[33mMISMATCH\x1b[0m | Reinit due to size mismatch - ckpt: \
torch.Size([64]) vs model:torch.Size([128])
"""


def finished(code: int = 0, tail: str = "", **result: Any) -> ProcessResult:
    events: list[dict[str, Any]] = [{"event": "result", **result}] if result else []
    return ProcessResult(code, 1.0, 0, 1.0, tuple(events), tail)


def test_a_report_that_nobody_sees_is_quoted() -> None:
    said = failure(finished(1, REPORT + ABOVE), "full precision could not be measured").why
    assert "above report" not in said
    assert "not those of config.json: model.norm.weight" in said
    assert "[64]" in said
    assert "[128]" in said
    assert "not those of config.json" in failure(finished(1, ABOVE), "it failed").why


def refused(*names: str, profile: str = "strict") -> GateReport:
    findings = tuple(Violation(name, 1.0, 0.0, name) for name in names)
    return GateReport(
        profile=profile, thresholds=PROFILES[profile], metrics=GateMetrics(loads=True),
        verdict=Verdict(False, findings, ()),
    )  # fmt: skip


def test_a_lost_precision_is_cured_by_a_recipe_or_a_profile() -> None:
    assert "--recipe auto" in way_out(refused("kl_mean", "top1"))
    assert "--gate small" in way_out(refused("kl_mean"))
    assert "--gate small" not in way_out(refused("kl_mean", profile="small"))


def test_what_pictures_lost_is_cured_by_a_recipe() -> None:
    assert "--recipe auto" in way_out(refused("picture_kl", "picture_first"))


def test_what_was_tried_is_not_advised() -> None:
    said = way_out(refused("kl_mean"), budget=True, auto=True)
    assert "--recipe auto" not in said
    assert "larger --budget" in said
    assert "--budget" not in way_out(refused("kl_mean"), auto=True)
    assert "--threshold" in way_out(refused("kl_mean", profile="small"), auto=True)


@pytest.mark.parametrize(
    "name", ["template_mismatches", "token_mismatches", "rotary_error", "weight_error", "loads"]
)
def test_no_recipe_is_advised_where_none_helps(name: str) -> None:
    for found in (refused(name), refused(name, "kl_mean")):
        said = way_out(found)
        assert "--recipe" not in said
        assert "--gate small" not in said
        assert "another model" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"option-ignored"}, "leave the ignored option out"),
        ({"data-orphans"}, "run it again"),
        ({"token-ids", "vocabulary"}, "correct the source's tokenizer"),
        ({"kv-dtype"}, "another recipe"),
    ],
)
def test_the_lint_advises_what_fits_its_findings(names: set[str], said: str) -> None:
    assert said in check.way_out(names)
    assert ("run it again" in check.way_out(names)) is (names == {"data-orphans"})


class Scripts(Toolchain):
    """Runs no script: each has the result that the test names."""

    def __init__(self, **results: ProcessResult) -> None:
        self.results = results
        self.jobs: list[Job] = []

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        self.jobs.append(job)
        if job.script == "reference.py":
            (job.work / "out").mkdir()
        return self.results[job.script.removesuffix(".py")]


METRICS = {
    "loads": True, "load_error": "", "positions": 10, "texts": 1, "kl_mean": 9.0, "kl_median": 9.0,
    "kl_p99": 9.0, "kl_error": 0.0, "top1": 0.1, "perplexity_ratio": 99.0,
}  # fmt: skip
SCORED = finished(metrics=METRICS, tokens=[], seconds=1.0)
LAYERS = finished(layers=[{"layer": 0, "kl": 0.1}])


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("model", "source", "told"):
        (tmp_path / name).mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(8)
    (tmp_path / "source" / "model.safetensors").write_bytes(weights)
    (tmp_path / "source" / "config.json").write_text("{}")
    spec = BuildSpec(
        source=Source("folder", "tiny", "", {}), precision="int4", provider="cpu", options={},
        option_files={}, toolchain="0",
    )  # fmt: skip
    return Subject(tmp_path / "model", tmp_path / "source", spec, told=tmp_path / "told")


@pytest.mark.parametrize(
    "broken",
    [
        finished(1, "ScriptError: the source could not be built in fp32"),
        finished(-signal.SIGSEGV),
        finished(-signal.SIGKILL),
    ],
)
def test_a_verdict_stands_whatever_happens_to_the_search_for_its_cause(
    subject: Subject, broken: ProcessResult
) -> None:
    tools = Scripts(reference=finished(parameters=2), score=SCORED, attribute=broken, layers=broken)
    report = assess(subject, PROFILES["strict"], tools, silent)
    assert {"kl_mean", "top1"} <= {finding.name for finding in report.verdict.findings}
    assert report.attribution is None
    assert report.layers is None
    assert [note.partition(" could not be measured: ")[0] for note in report.notes] == [
        "the step that loses most", "the loss of each layer",
    ]  # fmt: skip


def test_the_cause_is_looked_for_in_what_the_builder_read(subject: Subject) -> None:
    losses = finished(export=0.1, weights=0.5, activations=0.2, positions=10)
    tools = Scripts(reference=finished(parameters=2), score=SCORED, attribute=losses, layers=LAYERS)
    report = assess(subject, PROFILES["strict"], tools, silent)
    assert report.attribution is not None
    assert report.attribution.largest == "weights"
    assert report.notes == ()
    job = next(job for job in tools.jobs if job.script == "attribute.py")
    assert subject.told in job.arguments
    assert subject.source not in job.arguments

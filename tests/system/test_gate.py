"""The gate on SmolLM2: the healthy model passes, each planted defect of quality is named.

The planted models are structurally sound: sizes, shapes and offsets are unchanged, and only a
measurement finds the defect. Structural defects are in test_lint.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest

from edgekit.builder.gate.effort import Effort
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import PROFILES, GateReport
from edgekit.builder.output.publish import read_record
from edgekit.builder.source.find import find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.host import HostToolchain
from tests.building import run_script, silent

EFFORT = Effort(prompts=6, tokens=40, greedy=6, greedy_tokens=96)
# the same texts, for defects that neither a continuation nor the long text is to find
READING = msgspec.structs.replace(EFFORT, greedy=1, greedy_tokens=8, long=0)


@pytest.fixture(scope="module")
def source(smollm2: Path) -> Path:
    return dequantised(find(str(smollm2_gguf()), None, None, silent), HostToolchain(), silent)


def measure(model: Path, source: Path, effort: Effort = EFFORT) -> GateReport:
    record = read_record(model)
    assert record is not None
    return assess(
        Subject(model, source, record.spec), PROFILES["small"], HostToolchain().ready(silent),
        silent, effort=effort, attribution=False, sensitivity=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def healthy(smollm2: Path, source: Path) -> GateReport:
    return measure(smollm2, source)


@pytest.fixture(scope="module")
def planted(
    smollm2: Path, source: Path, qwen2: Path, python: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Effort], GateReport]:
    """What is said of a model with a defect; each is measured once."""

    @cache
    def measured(defect: str, effort: Effort) -> GateReport:
        model = tmp_path_factory.mktemp(defect) / "model"
        shutil.copytree(smollm2, model)
        run_script(python, "faults/plant.py", defect, model, "--other", qwen2)
        return measure(model, source, effort)

    return measured


def test_the_healthy_model_passes(healthy: GateReport) -> None:
    report = healthy
    assert report.verdict.passed, report.verdict
    assert len(report.matrices) == 30 * 5 + 1  # qkv fused, o, gate, up and down of 30 layers, head
    assert all(len(text.kl) <= EFFORT.tokens for text in report.tokens)
    assert report.metrics.positions >= 100


@pytest.mark.parametrize(
    ("defect", "names", "effort"),
    [
        ("layer_zeroed", {"weight_error", "kl_mean"}, READING),
        ("scales_doubled", {"weight_error"}, READING),
        ("head_rows_swapped", {"weight_error"}, READING),
        ("rope_base", {"rotary_error"}, READING),
        ("chat_template", {"template_mismatches"}, EFFORT),
        ("tokenizer", {"token_mismatches"}, READING),
        ("looping", {"ends_lost"}, EFFORT),
    ],
)
def test_a_planted_defect_is_refused_by_name(
    defect: str,
    names: set[str],
    effort: Effort,
    planted: Callable[[str, Effort], GateReport],
) -> None:
    report = planted(defect, effort)
    found = {finding.name for finding in report.verdict.findings}
    assert names <= found, report.verdict
    assert not report.verdict.passed


@pytest.mark.parametrize(
    ("defects", "names"),
    [
        # the first of each pair is seen where the text is read at once, too; the second is not
        (("window", "caches_crossed"), {"long_kl", "cache_kl"}),
        (("rotary_tail", "past_swapped"), {"long_kl", "rotary_error", "cache_kl"}),
    ],
)
def test_a_planted_defect_of_attention_or_its_cache_is_refused_by_name(
    defects: tuple[str, ...], names: set[str], smollm2: Path, source: Path, python: str,
    tmp_path: Path, healthy: GateReport,
) -> None:  # fmt: skip
    model = tmp_path / "model"
    shutil.copytree(smollm2, model)
    run_script(python, "faults/plant_attention.py", model, *defects)
    report = measure(model, source)
    assert names <= {finding.name for finding in report.verdict.findings}, report.verdict
    # what comes through the cache is held against the same model, whose text read at once is wrong
    assert report.metrics.cache_kl is not None
    assert healthy.metrics.cache_kl is not None
    assert report.metrics.cache_kl > 50 * healthy.metrics.cache_kl


def test_the_time_is_announced_and_the_long_text_keeps_its_budget(
    healthy: GateReport, planted: Callable[[str, Effort], GateReport]
) -> None:
    for report in (
        healthy,
        planted("chat_template", EFFORT),
    ):  # the second has its reference in the cache
        assert report.announced_seconds > 0
        assert 0 < report.extra_seconds < report.seconds
    assert healthy.metrics.long_positions == 95
    assert 463 <= healthy.metrics.cache_positions <= 511  # fewer on a machine that is busy


def test_a_model_that_the_runtime_refuses_is_a_verdict(
    smollm2: Path, source: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(smollm2, model)
    (model / "model.onnx").write_bytes(b"no graph")
    report = measure(model, source)
    assert [finding.name for finding in report.verdict.findings] == ["loads"]


def test_what_full_precision_says_is_kept(
    healthy: GateReport, planted: Callable[[str, Effort], GateReport]
) -> None:
    assert healthy.metrics.loads
    assert planted("chat_template", EFFORT).reference["cached"]  # another model of the same source


def test_the_report_in_the_folder_is_the_gates(smollm2: Path) -> None:
    report = msgspec.json.decode((smollm2 / "gate.json").read_bytes(), type=dict[str, object])
    assert report["profile"] == "small"
    page = (smollm2 / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/", "")  # nothing is loaded from elsewhere

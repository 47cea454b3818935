"""The matrix of architectures: a part of it for real, and what its rows mean."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.support.architectures import ARCHITECTURES
from tests.building import ROOT, environment
from tests.matrix import table
from tests.matrix.row import Row, judged
from tests.matrix.shapes import FAMILIES

FINE: dict[str, Any] = {"difference": 1e-6, "stepwise": 2e-6, "cosine": 1.0}
SMALL: dict[str, Any] = {"cosine": 0.95, "tokens": [5, 6], "inside": True}

# one for each way of quantising: matrices and a shared embedding, experts, eight bits
PARTS = ("LlamaForCausalLM (tied", "Lfm2MoeForCausalLM (one", "int8/cpu")
SEEING = ("Phi3VForCausalLM", "SmolVLMForConditionalGeneration")
# built from a mended config.json, which lint compares with the one that was given
MENDED = ("keys that transformers does not read", "Qwen2ForCausalLM (sliding window beyond")


def statuses(folder: Path, *names: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.matrix", "--json", "--keep", folder, "--only", *names],
        capture_output=True, text=True, cwd=ROOT, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [row["status"] for row in json.loads(done.stdout)["rows"]]


@pytest.mark.timeout(600)
def test_one_family_per_way_of_quantising_is_equal_to_transformers(tmp_path: Path) -> None:
    assert statuses(tmp_path, *PARTS) == ["equal", "equal", "built"]


@pytest.mark.timeout(600)
def test_a_model_that_takes_pictures_is_equal_to_torch(tmp_path: Path) -> None:
    assert statuses(tmp_path, *SEEING) == ["equal"] * len(SEEING)


@pytest.mark.timeout(600)
def test_a_mended_configuration_is_no_difference_from_the_source(tmp_path: Path) -> None:
    assert statuses(tmp_path, *MENDED) == ["equal", "equal"]


def test_every_architecture_of_the_builder_has_a_row() -> None:
    assert {family.architecture for family in FAMILIES} == set(ARCHITECTURES)
    assert all(bool(family.config) != bool(family.why_not) for family in FAMILIES)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_what_is_right_is_equal() -> None:
    row = judged("a", "architecture", FINE, SMALL)
    assert (row.status, row.tokens, row.note) == ("equal", 2, "")
    assert judged("a", "target", {}, SMALL).status == "built"


@pytest.mark.parametrize(
    ("full", "small", "says"),
    [
        ({**FINE, "difference": 2e-3}, SMALL, "the whole prompt differs"),
        ({**FINE, "stepwise": 2e-3}, SMALL, "one token at a time differs"),
        ({**FINE, "stepwise": float("nan")}, SMALL, "one token at a time differs"),
        ({"error": "no such node"}, SMALL, "FP32: no such node"),
        (FINE, {**SMALL, "cosine": 0.3}, "cosine 0.30"),
        (FINE, {**SMALL, "cosine": float("nan")}, "cosine nan"),
        (FINE, {**SMALL, "inside": False}, "outside the vocabulary"),
        (FINE, {"error": "the runtime crashed"}, "INT4: the runtime crashed"),
    ],
)
def test_what_is_wrong_fails_with_its_reason(
    full: dict[str, Any], small: dict[str, Any], says: str
) -> None:
    row = judged("a", "architecture", full, small)
    assert row.status == "failed"
    assert says in row.note


def test_a_refusal_stands_only_while_the_builder_is_wrong() -> None:
    refused = {"refused": "not made"}
    wrong = judged("a", "architecture", {**refused, "error": "KeyError"}, {"error": "x"})
    assert wrong.status == "refused"
    assert "KeyError" in wrong.note
    assert judged("a", "architecture", {**refused, **FINE}, SMALL).status == "failed"


def test_the_document_is_rewritten_between_its_markers_only() -> None:
    rows = [Row("A", "equal", difference=1e-6, cosine=0.9), Row("B", "failed", note="x | y")]
    tools = dict.fromkeys(table.TOOLS, "1")
    before = f"start\n{table.BEGIN}\nold\n{table.END}\nend\n"
    after = table.rewritten(before, rows, tools)
    assert after.startswith(f"start\n{table.BEGIN}\n1 equal")
    assert after.endswith(f"{table.END}\nend\n")
    assert "old" not in after
    assert "| `B` | failed |  |  | x \\| y |" in after
    assert table.rewritten(after, rows, tools) == after


def test_the_document_has_the_row_of_every_family() -> None:
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert all(f"| `{family.name}` |" in text for family in FAMILIES)

"""`--verify` repeats a build and names differences; `--recipe auto` keeps a model that passes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.building import edgekit_build, make_tiny

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def gemma(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(python, "gemma", tmp_path_factory.mktemp("tiny") / "tiny-gemma")


@pytest.fixture(scope="module")
def built(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "gemma"
    done = edgekit_build("--host", "--no-gate", "-m", gemma, "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_repeated_build_is_equal_by_either_path(built: Path, gemma: Path) -> None:
    for path in ("stock", "auto"):
        done = edgekit_build("--host", "--verify", built, "-m", gemma, "--path", path, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        record = json.loads((built / "build.json").read_text(encoding="utf-8"))
        assert said["files"] == record["files"]


def test_a_changed_file_is_named(built: Path, gemma: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    with (copy / "model.onnx.data").open("r+b") as file:
        file.write(b"\xff")
    done = edgekit_build("--host", "--verify", copy, "-m", gemma)
    assert done.returncode == 4
    assert "model.onnx.data" in done.stderr


def test_a_record_that_was_changed_with_the_file_is_found_by_building_again(
    built: Path, gemma: Path, tmp_path: Path
) -> None:
    # what a forger would do: change the file and its hash
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    (copy / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    record = json.loads((copy / "build.json").read_text(encoding="utf-8"))
    content = (copy / "chat_template.jinja").read_bytes()
    record["files"]["chat_template.jinja"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    (copy / "build.json").write_text(json.dumps(record), encoding="utf-8")
    done = edgekit_build("--host", "--verify", copy, "-m", gemma)
    assert done.returncode == 4
    assert "the repeated build" in done.stderr
    assert "chat_template.jinja" in done.stderr


def test_another_source_is_refused(built: Path, qwen2: Path) -> None:
    done = edgekit_build("--host", "--verify", built, "-m", qwen2)
    assert done.returncode == 2
    assert "is not what tiny-gemma was built from" in done.stderr


def test_auto_goes_on_until_a_recipe_passes_and_shows_what_it_tried(
    gemma: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # between what plain and k-quant lose on these weights
    limit = ("--gate", "small", "--threshold", "kl_mean=0.000178")
    done = edgekit_build("--host", "-m", gemma, "-o", out, "--recipe", "auto", *limit, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(trial["recipe"], trial["passed"]) for trial in said["trials"]] == [
        ("plain", False), ("k-quant", True),
    ]  # fmt: skip
    assert said["trials"][0]["findings"] == ["kl_mean"]
    assert said["recipe"] == "k-quant"
    assert json.loads((out / "build.json").read_text(encoding="utf-8"))["asked"] == "auto"
    again = edgekit_build("--host", "-m", gemma, "-o", out, "--recipe", "auto", *limit)
    assert "up to date" in again.stdout

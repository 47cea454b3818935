"""What a hub can do to a build: refuse, break off, send other bytes. The hub is a stand-in; the
client is Hugging Face's own."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.building import TESTS, edgekit_build

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def hub() -> dict[str, Any]:
    return runpy.run_path(str(TESTS / "fakes/hub.py"))


def arguments(folder: Path) -> tuple[str | Path, ...]:
    cache = folder / "cache"
    return ("--host", "--no-gate", "-m", "some/tiny", "-c", cache, "-o", folder / "out")


def test_a_gated_repository_is_one_error_that_says_what_to_do(
    hub: dict[str, Any], qwen2: Path, tmp_path: Path
) -> None:
    with hub["serving"](qwen2, "some/tiny", gated=True) as address:
        done = edgekit_build(*arguments(tmp_path), HF_ENDPOINT=address)
    assert done.returncode == 1
    assert "some/tiny asks for its terms to be accepted" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_repository_without_weights_is_not_downloaded(
    hub: dict[str, Any], qwen2: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(qwen2, source)
    (source / "model.safetensors").rename(source / "consolidated.safetensors")
    with hub["serving"](source, "some/tiny") as address:
        done = edgekit_build(*arguments(tmp_path), HF_ENDPOINT=address)
    assert done.returncode == 2
    assert "in Mistral's own format alone (consolidated.safetensors)" in done.stderr
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_a_file_that_is_not_what_the_hub_lists_is_refused_by_name(
    hub: dict[str, Any], qwen2: Path, tmp_path: Path
) -> None:
    with hub["serving"](qwen2, "some/tiny", altered="model.safetensors") as address:
        done = edgekit_build(*arguments(tmp_path), HF_ENDPOINT=address)
    assert done.returncode == 4
    assert "model.safetensors of some/tiny is not the file on the hub" in done.stderr
    bad = next(word for word in done.stderr.split() if word.startswith(str(tmp_path)))
    Path(bad).unlink()
    with hub["serving"](qwen2, "some/tiny") as address:
        assert edgekit_build(*arguments(tmp_path), HF_ENDPOINT=address).returncode == 0


def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: dict[str, Any], qwen2: Path, tmp_path: Path
) -> None:
    with hub["serving"](qwen2, "some/tiny", cut="model.safetensors") as address:
        first = edgekit_build(*arguments(tmp_path), HF_ENDPOINT=address)
        again = edgekit_build(*arguments(tmp_path), HF_ENDPOINT=address)
    # the client itself may go on within the first command; if it gives up, the second one does
    assert "Traceback" not in first.stderr
    assert again.returncode == 0, again.stderr
    weights = next((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))
    assert weights.read_bytes() == (qwen2 / "model.safetensors").read_bytes()


def test_a_half_downloaded_shard_is_named(qwen2: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in qwen2.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(
            data[: len(data) // 2] if path.suffix == ".safetensors" else data
        )
    done = edgekit_build("--host", "-m", broken, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "model.safetensors is only half there" in done.stderr

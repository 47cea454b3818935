"""Options that name files: they are found and hashed, and the options stay unchanged."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import MappingProxyType

import pytest

from edgekit.builder.make.prepare import prepare
from edgekit.builder.request.optionfiles import OptionFiles, hash_option_files
from edgekit.builder.request.request import BuildRequest
from edgekit.errors import UsageError

DATA = b"weights"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "adapter" / "below").mkdir(parents=True)
    (tmp_path / "adapter" / "below" / "a.bin").write_bytes(DATA)
    (tmp_path / "scales.json").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_options_name_is_found_and_they_stay_as_they_are(folder: Path) -> None:
    given = {
        "kv_cache_scale_file": "scales.json", "block_size": "32", "adapter_path": "./adapter",
    }  # fmt: skip
    found = hash_option_files(MappingProxyType(given))
    assert found.paths == {
        "adapter_path": str(folder / "adapter"),
        "kv_cache_scale_file": str(folder / "scales.json"),
    }
    assert found.files == {
        "adapter_path": {"below/a.bin": SHA256},
        "kv_cache_scale_file": {"scales.json": SHA256},
    }
    assert found.reads == (folder / "adapter", folder / "scales.json")


def test_options_that_name_nothing_are_left_out() -> None:
    assert hash_option_files({"block_size": "32"}) == OptionFiles({}, {})


def test_what_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="adapter_path names no, which does not exist"):
        hash_option_files({"adapter_path": "no"})


def test_the_builder_gets_an_absolute_path_and_the_record_none(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    options = ("adapter_path=adapter", "block_size=64")
    request = BuildRequest(str(source), folder / "out", options=options)
    prepared = prepare(request, "ab" * 32, lambda _: None)
    (candidate,) = prepared.candidates
    assert candidate.options == {"adapter_path": str(folder / "adapter"), "block_size": "64"}
    assert candidate.spec.options == {"block_size": "64"}
    assert candidate.spec.option_files == {"adapter_path": {"below/a.bin": SHA256}}
    assert prepared.reads == (folder / "adapter",)
    assert request.options == options

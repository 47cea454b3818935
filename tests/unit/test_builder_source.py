"""Values of `-m`: the accepted ones, and the errors for all others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgekit.builder.source.find import LocalSource, find
from edgekit.errors import UsageError
from tests.building import silent

WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # safetensors without a tensor
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def look(model: Path | str, revision: str | None = None) -> LocalSource:
    return find(str(model), revision, None, silent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "smol"
    made.mkdir()
    (made / "config.json").write_bytes(b"{}")
    (made / "model.safetensors").write_bytes(WEIGHTS)
    (made / "tokenizer.json").write_bytes(b"{}")
    return made


def refusal(model: Path | str, revision: str | None = None) -> UsageError:
    with pytest.raises(UsageError) as refused:
        look(model, revision)
    return refused.value


def test_a_folder_is_its_files_not_its_place(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_bytes(b"t")
    found = look(folder)
    assert found.path == folder
    assert (found.source.kind, found.source.name, found.source.revision) == ("folder", "smol", "")
    assert sorted(found.source.files) == [
        "additional_chat_templates/tool.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert found.source.files["model.safetensors"] == digest


def test_files_no_build_reads_do_not_count(folder: Path) -> None:
    before = look(folder).source
    (folder / "README.md").write_bytes(b"words")
    (folder / ".gitattributes").write_bytes(b"x")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_bytes(b"{}")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights again")
    assert look(folder).source == before


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "there is no" in refusal(tmp_path / "nothing").what


def test_a_gguf_that_does_not_exist_is_not_looked_for_on_the_hub() -> None:
    assert "there is no" in refusal("some/model.gguf").what


def test_a_bare_name_is_refused_with_the_form_of_a_hub_name() -> None:
    assert "ORG/NAME" in refusal("gpt2").next_step


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json" in refusal(folder).why


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "safetensors" in refusal(folder).why


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    refused = refusal(folder)
    assert refused.what == f"{name} is a Git LFS pointer, not the file itself"
    assert "git lfs pull" in refused.next_step


def test_a_missing_shard_is_refused(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing (1 of 2" in refusal(folder).why


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"weight_map": 1}', b"not json"])
def test_an_unreadable_index_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors.index.json").write_bytes(content)
    assert "cannot be read" in refusal(folder).what


def test_a_gguf_is_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF and more")
    found = look(path)
    digest = hashlib.sha256(b"GGUF and more").hexdigest()
    assert found.source.kind == "gguf"
    assert found.source.files == {"m.gguf": digest}


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04zip", POINTER])
def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    refused = refusal(path)
    assert "GGUF" in refused.what or "LFS" in refused.what


def test_a_revision_does_not_go_with_a_path(folder: Path) -> None:
    assert "--revision" in refusal(folder, "main").what

"""Pack reads `build.json` as the build writes it, and the keys keep their spelling."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edgekit.builder.output.publish import read_record
from edgekit.builder.spec import BuildRecord, GateSummary
from edgekit.bundle.folder import read_folder
from edgekit.core.buildinfo import RECORD_NAME, BuildInfo, FileRecord, GateOutcome, made_from
from edgekit.errors import UsageError
from tests.models.model_folder import FAILED, PASSED, SOURCE, SPEC, model_folder


def test_the_keys_of_a_record_keep_their_spelling(tmp_path: Path) -> None:
    record = json.loads((model_folder(tmp_path / "model") / RECORD_NAME).read_bytes())
    assert sorted(record) == [
        "asked", "build_id", "files", "format", "gate", "image", "isolation", "path", "recipe",
        "seconds", "spec", "tools",
    ]  # fmt: skip
    assert sorted(record["gate"]) == ["mean_kl", "passed", "profile", "thresholds"]
    assert {tuple(sorted(file)) for file in record["files"].values()} == {("sha256", "size")}


@pytest.mark.parametrize("gate", [PASSED, FAILED, None])
def test_pack_reads_what_the_build_wrote(tmp_path: Path, gate: GateSummary | None) -> None:
    folder = model_folder(tmp_path / "model", gate)
    written, seen = read_record(folder), read_folder(folder).record
    assert isinstance(written, BuildRecord)
    assert seen == BuildInfo(
        written.build_id,
        written.files,
        GateOutcome(gate.profile, gate.passed) if gate else None,
    )


def test_pack_passes_over_what_it_does_not_know() -> None:
    data = b"""{
        "build_id": "ab", "new": 1, "files": {"model.onnx": {"sha256": "cd", "size": 1, "new": 1}},
        "gate": {"new": 1}
    }"""
    expected = BuildInfo("ab", {"model.onnx": FileRecord("cd", 1)}, GateOutcome("", None))
    assert msgspec.json.decode(data, type=BuildInfo) == expected


@pytest.mark.parametrize("key", ["build_id", "files", "spec", "tools", "seconds"])
def test_a_record_without_what_it_needs_is_none(tmp_path: Path, key: str) -> None:
    folder = model_folder(tmp_path / "model")
    record = json.loads((folder / RECORD_NAME).read_bytes())
    del record[key]
    (folder / RECORD_NAME).write_text(json.dumps(record))
    assert read_record(folder) is None
    if key in ("build_id", "files"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_folder(folder)
    else:
        assert read_folder(folder).record is not None


def made(**changes: object) -> str:
    return made_from(msgspec.json.encode({"spec": msgspec.structs.replace(SPEC, **changes)}))


def test_what_a_model_was_made_from_is_its_source_and_its_options_whatever_made_it() -> None:
    first = made()
    assert len(first) == 64
    named = msgspec.structs.replace(SOURCE, kind="folder", name="mine", revision="")
    assert {made(toolchain="dd" * 32), made(context=64), made(steps=9), made(source=named)} == {
        first
    }
    tuned = msgspec.structs.replace(SOURCE, files={"model.safetensors": "ab" * 32})
    others = {
        *(made(source=tuned), made(precision="fp32"), made(provider="cuda"), made(vision="int8")),
        *(made(options={}), made(option_files={"x": {"y": "ab" * 32}})),
    }
    assert len(others) == 6
    assert first not in others
    assert made_from(b"") == made_from(b"{}") == made_from(b'{"spec": {}}') == ""


def test_a_folder_says_what_its_model_was_made_from(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert read_folder(folder).made_from == made()
    (folder / RECORD_NAME).unlink()
    assert read_folder(folder).made_from == ""

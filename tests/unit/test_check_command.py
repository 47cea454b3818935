"""`edgekit check`: what is refused before anything runs, and whose findings count. No toolchain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from edgekit.builder.check import CheckRequest, CheckResult, check, refuse_failed
from edgekit.builder.gate.verdict import PROFILES
from edgekit.builder.lint.claimed import BY_REQUEST, claimed, heard, unlike
from edgekit.builder.lint.facts import ConfigFacts, FolderFacts, MatrixFacts
from edgekit.builder.lint.finding import refuse, warn
from edgekit.builder.spec import BuildRecord, BuildSpec, Source
from edgekit.builder.tools.host import HostToolchain
from edgekit.cli.main import application
from edgekit.errors import UsageError, VerificationError

SMOLLM2 = ConfigFacts(
    type="llama", context_length=8192, vocabulary=49152, bos=(1,), eos=(2,), pad=(2,),
    filename="model.onnx", head_size=64, hidden_size=576, layers=30, heads=9, kv_heads=3,
    max_length=4096, providers=(), threads=None,
)  # fmt: skip
SOURCE = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152,
}  # fmt: skip
SPEC = BuildSpec(Source("folder", "x", "", {}), "int8", "cpu", {"block_size": "64"}, {}, "0" * 64)


def facts(*bits: int, method: str = "blockwise") -> FolderFacts:
    matrices = tuple(
        MatrixFacts(name=f"/model/layers.{i}/mlp/up_proj/MatMul", kind="matmul", bits=b,
                    method=method)
        for i, b in enumerate(bits)
    )  # fmt: skip
    return FolderFacts(
        graph=None, matrices=matrices, not_finite=(), data=None, files={},
        graph_name="model.onnx", config=SMOLLM2, tokenizer=None, has_template=True, unreadable={},
    )  # fmt: skip


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(application("check"), ["check", *map(str, arguments)])
    if isinstance(done.exception, UsageError | VerificationError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def refused(folder: Path, **more: Any) -> str:
    request = CheckRequest(folder=folder, thresholds=PROFILES["strict"], **more)
    with pytest.raises(UsageError) as raised:
        check(request, lambda _: None, HostToolchain())
    return str(raised.value)


def test_what_is_no_model_folder_is_refused_by_name(tmp_path: Path) -> None:
    assert "there is no" in refused(tmp_path / "none")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "edgekit build -m model.gguf" in refused(tmp_path / "model.gguf")
    (tmp_path / "notes.txt").write_text("")
    assert "is a file" in refused(tmp_path / "notes.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "genai_config.json" in refused(empty)
    (empty / "config.json").write_text("{}")
    assert "before its build" in refused(empty)


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text("{}")
    assert "there is no nowhere.gguf" in refused(tmp_path, model="nowhere.gguf")
    assert "adapter" in refused(tmp_path, model="x", adapter=tmp_path / "none")


def test_a_build_with_an_adapter_names_it_before_anything_runs(tmp_path: Path) -> None:
    merged = msgspec.structs.replace(SPEC, option_files={"adapter_path": {"a.safetensors": "0"}})
    record = BuildRecord(build_id="0", spec=merged, files={}, tools={}, seconds=1.0)
    (tmp_path / "genai_config.json").write_text("{}")
    (tmp_path / "build.json").write_bytes(msgspec.json.encode(record))
    assert "--adapter" in refused(tmp_path, model="nowhere")


def test_flags_of_the_source_go_with_it(tmp_path: Path) -> None:
    code, said = run(tmp_path, "--revision", "main")
    assert (code, "go with the source" in said) == (2, True)
    code, said = run(tmp_path, "-m", "x", "--gate", "stricct")
    assert (code, "strict" in said) == (2, True)


def test_help_has_examples() -> None:
    code, said = run("--help")
    assert code == 0
    assert "edgekit check --host phi -m" in said


def test_another_model_is_not_the_source_and_one_wrong_number_is_a_defect() -> None:
    assert unlike(SMOLLM2, SOURCE, {}) == ()
    other = SOURCE | {"hidden_size": 896, "vocab_size": 151936}
    assert unlike(SMOLLM2, {"text_config": other}, {}) == (
        "hidden_size is 896 there and 576 in the folder",
        "vocab_size is 151936 there and 49152 in the folder",
    )
    assert len(unlike(SMOLLM2, SOURCE | {"num_hidden_layers": 32}, {})) == 1
    assert not unlike(SMOLLM2, SOURCE | {"num_hidden_layers": 32}, {"num_hidden_layers": "30"})


def test_a_stranger_is_checked_as_it_is_and_a_build_as_it_was_asked() -> None:
    asked, known = claimed(facts(8, 8, 4), None, None, has_template=True)
    assert (asked.precision, known) == ("int8", False)
    asked, known = claimed(facts(4), SPEC, None, has_template=True)
    assert (asked.bits, asked.block_size, known) == (8, 64, True)
    # a source that was quantised already keeps its own form, which only its config.json says
    assert not claimed(facts(4, method="checkpoint"), SPEC, None, has_template=True)[1]
    assert claimed(facts(4, method="checkpoint"), SPEC, SOURCE, has_template=True)[1]


def test_findings_about_the_request_count_where_it_is_known() -> None:
    found = (refuse("bits", "", "", "", ""), refuse("graph-broken", "", "", "", ""))
    assert heard(found, known=True) == found
    assert [f.name for f in heard(found, known=False)] == ["graph-broken"]
    assert "scales-not-finite" not in BY_REQUEST


def test_a_check_that_did_not_pass_is_an_error_with_every_reason() -> None:
    findings = (refuse("layers", "missing", "1", "2", "3"), warn("edited", "", "", "", ""))
    result = CheckResult(
        folder=Path("phi"), passed=False, findings=findings, gate=None, seconds=1.0
    )
    with pytest.raises(VerificationError, match="phi did not pass") as raised:
        refuse_failed(result)
    assert "layers: missing" in str(raised.value)
    assert "edited" not in str(raised.value)
    refuse_failed(msgspec.structs.replace(result, passed=True))
    assert json.loads(msgspec.json.encode(msgspec.to_builtins(result, enc_hook=str)))

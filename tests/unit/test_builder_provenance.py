"""The statement about a build is complete, names the right files, and equal builds have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.builder.output.provenance import provenance_bytes, statement
from edgekit.builder.spec import BuildRecord, BuildSpec, GateSummary, Source
from edgekit.core.buildinfo import FileRecord
from tests.models.model_folder import COMMIT, FAILED, MODEL, PASSED, SPEC, model_folder

FILES = {"model.onnx": FileRecord("11" * 32, 5), "genai_config.json": FileRecord("22" * 32, 6)}


def record(spec: BuildSpec = SPEC, **changes: Any) -> BuildRecord:
    made = BuildRecord(
        spec.build_id(), FILES, spec=spec, tools={"torch": "2.13.0+cpu"}, seconds=12.5
    )
    return msgspec.structs.replace(made, **changes)


def definition(made: BuildRecord) -> dict[str, Any]:
    return dict(statement(made)["predicate"]["buildDefinition"])


def dependencies(made: BuildRecord) -> list[dict[str, Any]]:
    return list(definition(made)["resolvedDependencies"])


def test_it_is_a_statement_of_slsa_about_every_file() -> None:
    made = statement(record())
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert made["subject"] == [
        {"name": "genai_config.json", "digest": {"sha256": "22" * 32}},
        {"name": "model.onnx", "digest": {"sha256": "11" * 32}},
    ]
    # what the specification demands of a predicate
    assert made["predicate"]["buildDefinition"].keys() >= {"buildType", "externalParameters"}
    assert made["predicate"]["runDetails"]["builder"]["id"].startswith("https://")


def test_everything_that_was_asked_for_is_in_it() -> None:
    spec = msgspec.structs.replace(SPEC, options={"hf_remote": "true"})
    assert definition(record(spec, recipe="k-quant"))["externalParameters"] == {
        "model": "Org/Tiny-Instruct",
        "revision": COMMIT,
        "precision": "int4",
        "provider": "cpu",
        "recipe": "k-quant",
        "options": {"hf_remote": "true"},
        "context": SPEC.context,
        "trustRemoteCode": True,
    }


def test_a_repository_is_named_by_its_commit_and_each_file_by_its_hash() -> None:
    found = dependencies(record())
    assert found[0] == {
        "uri": f"pkg:huggingface/Org/Tiny-Instruct@{COMMIT}",
        "digest": {"gitCommit": COMMIT},
    }
    assert found[1] == {
        "uri": f"hf://Org/Tiny-Instruct@{COMMIT}/model.safetensors",
        "name": "model.safetensors",
        "digest": {"sha256": "aa" * 32},
    }


def test_a_local_source_has_hashes_and_no_address() -> None:
    spec = msgspec.structs.replace(SPEC, source=Source("gguf", "a.gguf", "", {"a.gguf": "dd" * 32}))
    assert dependencies(record(spec))[0] == {"name": "a.gguf", "digest": {"sha256": "dd" * 32}}
    assert b"hf://" not in provenance_bytes(record(spec))


def test_lock_image_option_files_and_tools_are_dependencies() -> None:
    spec = msgspec.structs.replace(SPEC, option_files={"adapter_path": {"a.bin": "ee" * 32}})
    found = dependencies(record(spec, isolation="container", image="sha256:" + "ff" * 32))
    assert {"name": "adapter_path/a.bin", "digest": {"sha256": "ee" * 32}} in found
    assert {"name": "toolchain.lock", "digest": {"sha256": "bb" * 32}} in found
    assert {"name": "builder image", "digest": {"sha256": "ff" * 32}} in found
    assert {"uri": "pkg:pypi/torch@2.13.0%2Bcpu"} in found


def test_the_whole_lock_replaces_the_named_tools() -> None:
    made = statement(record(), {"numpy": "2.4.6", "torch": "2.13.0"})
    uris = [d.get("uri") for d in made["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert uris[-2:] == ["pkg:pypi/numpy@2.4.6", "pkg:pypi/torch@2.13.0"]


def test_equal_builds_give_equal_bytes_however_long_they_took() -> None:
    other = record(seconds=99.0, files=dict(reversed(FILES.items())))
    assert provenance_bytes(other) == provenance_bytes(record())
    assert msgspec.json.decode(provenance_bytes(record())) == statement(record())


def test_measured_figures_stay_out_and_the_verdict_is_in() -> None:
    again = msgspec.structs.replace(PASSED, mean_kl=PASSED.mean_kl * 1.001)
    assert provenance_bytes(record(gate=again)) == provenance_bytes(record(gate=PASSED))
    for gate, said in ((PASSED, True), (FAILED, False)):
        assert definition(record(gate=gate))["internalParameters"]["gate"]["passed"] is said
    assert definition(record())["internalParameters"]["gate"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "other"},
        {"isolation": "container"},
        {"route": "stock"},
        {"image": "sha256:" + "ff" * 32},
        {"gate": GateSummary(profile="demo", thresholds="cc" * 32, passed=True, mean_kl=0.0)},
        {"tools": {"torch": "2.14.0"}},
        {"files": {"model.onnx": FileRecord("33" * 32, 5)}},
    ],
)
def test_another_build_is_another_statement(change: dict[str, Any]) -> None:
    assert provenance_bytes(record(**change)) != provenance_bytes(record())


def test_the_fake_folder_of_other_tests_is_about_its_own_files(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    made = msgspec.json.decode((folder / "provenance.json").read_bytes())
    assert {item["name"] for item in made["subject"]} == set(MODEL)

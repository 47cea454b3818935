"""`edgekit build` of a tiny Phi-3.5-vision: all of its parts, equal to torch, and its refusals."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.builder.plan.gather import plan_build
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostRunner
from edgekit.errors import EdgekitError, UsageError
from tests.building import content, edgekit_build, environment, silent
from tests.linted import refused
from tests.pictured import checkpoint

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def source(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(python, tmp_path_factory.mktemp("phi3v") / "source")


def made(source: Path, out: Path, **how: Any) -> Path:
    return build(BuildRequest(str(source), out, gate=None, **how), silent).out


@pytest.fixture(scope="module")
def fp32(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("built") / "fp32", precision="fp32")


def test_the_folder_has_every_part_and_its_record_names_the_vision_precision(fp32: Path) -> None:
    config = json.loads((fp32 / "genai_config.json").read_text())
    assert config["model"]["type"] == "phi3v"
    assert config["model"]["vision"]["filename"] == "vision.onnx"
    assert config["model"]["embedding"]["filename"] == "embedding.onnx"
    assert "sliding_window" not in config["model"]["decoder"]
    assert config["search"]["max_length"] == 4096
    record = json.loads((fp32 / "build.json").read_text())
    assert record["spec"]["vision"] == "fp32"
    assert record["spec"]["options"] == {"exclude_embeds": "true"}
    for name in ("vision.onnx", "vision.onnx.data", "embedding.onnx", "processor_config.json"):
        assert name in record["files"]
    statement = json.loads((fp32 / "provenance.json").read_text())
    outside = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert outside["visionPrecision"] == "fp32"


def test_int4_text_goes_with_int8_vision_unless_asked_otherwise(
    source: Path, fp32: Path, tmp_path: Path
) -> None:
    done = edgekit_build("--host", "-m", source, "-o", tmp_path / "out", "--no-gate", "--json")
    assert done.returncode == 0, done.stderr
    assert not [note for note in json.loads(done.stdout)["notes"] if "not compared" in note]
    record = json.loads((tmp_path / "out" / "build.json").read_text())
    assert (record["spec"]["precision"], record["spec"]["vision"]) == ("int4", "int8")
    size = (tmp_path / "out" / "vision.onnx.data").stat().st_size
    assert size < 0.6 * (fp32 / "vision.onnx.data").stat().st_size
    other = made(source, tmp_path / "other", vision_precision="fp32")
    assert (other / "vision.onnx.data").read_bytes() == (fp32 / "vision.onnx.data").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_the_plan_says_how_large_the_parts_become(
    precision: str, source: Path, fp32: Path, tmp_path: Path
) -> None:
    model = fp32 if precision == "fp32" else made(source, tmp_path / "out", precision="int4")
    request = BuildRequest(str(source), tmp_path / "planned", precision=precision)
    plan = plan_build(request, silent)
    assert plan.supported
    assert (plan.architecture, plan.context) == ("Phi3VForCausalLM", 4096)
    row = plan.rows[0]
    assert row.exact
    assert row.data_bytes == (model / "model.onnx.data").stat().st_size
    parts = sum((model / f"{part}.onnx.data").stat().st_size for part in ("vision", "embedding"))
    # norms and biases of a tiny tower lie in the graph itself
    assert row.vision_bytes == pytest.approx(parts, rel=0.02)
    assert [cost.tokens for cost in row.pictures] == [313, 757, 2509]


@pytest.mark.parametrize("single", [False, True])
def test_an_embedding_within_the_vision_part_makes_the_same_bytes(
    single: bool, python: str, fp32: Path, tmp_path: Path
) -> None:
    more = ("--single",) if single else ()
    other = checkpoint(python, tmp_path / "source", "--table", "inner", *more)
    out = made(other, tmp_path / "out", precision="fp32")
    assert content(out) == content(fp32)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"vision_precision": "int4"}, "the vision part is not built in int4"),
        ({"vision_precision": "int3"}, "the vision part is not built in int3"),
        ({"context": 4097}, "is built for 4096 tokens at most, not 4097"),
        ({"precision": "fp16"}, "is not built in fp16"),
        ({"provider": "cuda"}, "is not built for cuda"),
        ({"options": ("exclude_embeds=false",)}, "is not built with exclude_embeds=false"),
        ({"options": ("exclude_lm_head=true",)}, "is not built with exclude_lm_head=true"),
    ],
)
def test_what_would_come_out_wrong_is_refused_by_name(
    how: dict[str, Any], what: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=what):
        made(source, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_int4_vision_says_why(source: Path, tmp_path: Path) -> None:
    done = edgekit_build("-m", source, "-o", tmp_path / "out", "--vision-precision", "int4")
    assert done.returncode == UsageError.exit_code
    assert "27 % off" in done.stderr
    assert "--vision-precision int8" in done.stderr


def test_a_text_model_takes_no_vision_precision(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goes with a model that takes pictures"):
        made(qwen2, tmp_path / "out", vision_precision="fp32")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("embd_layer", "hd_transform_order", "glb_sub"),
        ("embd_layer", "use_hd_transform", False),
        ("img_processor", "num_img_tokens", 576),
    ],
)
def test_another_phi_3_vision_is_refused(
    section: str, key: str, value: object, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "source"
    shutil.copytree(source, other)
    config = json.loads((other / "config.json").read_text())
    config[section][key] = value
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=f"{section} is another"):
        made(other, tmp_path / "out")


def test_a_vision_part_that_is_not_whole_ends_the_build_before_the_text_part(
    source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "source"
    shutil.copytree(source, other)
    index_file = other / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    name = next(n for n in index["weight_map"] if n.endswith("layers.2.mlp.fc2.bias"))
    file = other / index["weight_map"].pop(name)
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    gone = header.pop(name)["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= gone[1]:
            entry["data_offsets"] = [at - gone[1] + gone[0] for at in entry["data_offsets"]]
    told = json.dumps(header).encode()
    file.write_bytes(len(told).to_bytes(8, "little") + told + data[: gone[0]] + data[gone[1] :])
    index_file.write_text(json.dumps(index))
    with pytest.raises(EdgekitError, match=f"the checkpoint lacks {name}"):
        made(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_check_reads_a_folder_and_its_source_without_the_repository_s_code(
    source: Path, fp32: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "check", "--host", fp32, "-m", source, "--gate", "small",
         "--json"],
        capture_output=True, text=True, timeout=500, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["passed"], said["findings"]) == (True, [])


def test_a_repeated_build_is_equal(source: Path, fp32: Path) -> None:
    done = edgekit_build("--host", "--verify", fp32, "-m", source, "--path", "stock")
    assert done.returncode == 0, done.stderr


def _flip(name: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        data = np.fromfile(model / name, np.float32 if "vision" in name else np.uint16)
        data[len(data) // 2] += 1
        data.tofile(model / name)

    return change


def _forget(model: Path) -> None:
    config = json.loads((model / "genai_config.json").read_text())
    del config["model"]["vision"]
    (model / "genai_config.json").write_text(json.dumps(config))


def _other_graph(model: Path) -> None:
    path = model / "vision.onnx"
    told, other = (struct.pack("<f", epsilon) for epsilon in (1e-5, 1e-6))
    path.write_bytes(path.read_bytes().replace(told, other, 1))


@pytest.mark.parametrize(
    ("defect", "names"),
    [
        (_flip("vision.onnx.data"), {"vision-weights"}),
        (_flip("embedding.onnx.data"), {"vision-weights"}),
        (_other_graph, {"vision-graph"}),
        (_forget, {"data-orphans", "file-missing"}),
        (lambda model: (model / "vision.onnx").unlink(), {"data-orphans", "file-missing"}),
        (lambda model: (model / "vision.onnx.data").unlink(), {"file-missing"}),
    ],
    ids=["weight", "row", "operator", "section", "graph", "data"],
)
def test_the_lint_names_a_defect_of_the_part_that_sees(
    defect: Callable[[Path], None], names: set[str], source: Path, fp32: Path, python: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    from edgekit.builder.lint.check import asked_of, check_folder
    from edgekit.builder.make.told import as_told
    from edgekit.builder.output.publish import read_record

    record = read_record(fp32)
    assert record is not None
    model = tmp_path / "model"
    shutil.copytree(fp32, model)
    told, _ = as_told(source, tmp_path)
    asked = asked_of(record.spec, told)
    runner = HostRunner(Path(python))
    assert refused(check_folder(model, asked, runner, tmp_path, silent, told)) == set()
    defect(model)
    found = check_folder(model, asked, runner, tmp_path, silent, told)
    assert refused(found) == names, found

"""`edgekit build` of a tiny SmolVLM: graphs against transformers, the gate, and refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edgekit.builder.gate.effort import Effort
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import PROFILES, GateReport
from edgekit.builder.lint.check import asked_of, check_folder
from edgekit.builder.make.told import as_told
from edgekit.builder.output.publish import read_record
from edgekit.builder.plan.gather import plan_build
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.support.pictures import text_config
from edgekit.builder.tools.host import HostRunner
from edgekit.errors import UsageError
from tests.building import content, silent
from tests.linted import refused
from tests.pictured import Floats, checkpoint, features_of_views, graphs, session, torch_says

pytestmark = pytest.mark.timeout(600)
TOLERANCE = 1e-4
VIEWS = (1, 3, 5, 17)
EFFORT = Effort(prompts=2, tokens=8, greedy=2, greedy_tokens=8, long=96)


def made(source: Path, out: Path, **how: Any) -> Path:
    return build(BuildRequest(str(source), out, gate=None, **how), silent).out


@pytest.fixture(scope="module")
def int8(smolvlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(smolvlm / "source", tmp_path_factory.mktemp("built") / "int8", precision="int8")


def test_features_are_those_of_transformers(smolvlm: Path, python: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    seen: list[Floats] = [
        random.standard_normal((count, 3, 128, 128), np.float32) for count in VIEWS
    ]
    cases: dict[str, npt.NDArray[np.generic]] = {
        f"pixels_{number}": views for number, views in enumerate(seen)
    }
    said: dict[str, Any] = torch_says(python, smolvlm / "source", cases, tmp_path, family="smolvlm")
    vision = session(smolvlm / "model" / "vision.onnx")
    for number, views in enumerate(seen):
        wanted = said[f"features_{number}"]
        whole = features_of_views(vision, views)
        assert whole.shape == (16 * len(views), 64)
        assert np.abs(whole - wanted).max() <= TOLERANCE
        assert np.abs(wanted).max() > 1
        alone = np.concatenate([features_of_views(vision, view[None]) for view in views])
        assert np.abs(alone - whole).max() <= TOLERANCE / 10


def test_a_grid_whose_places_repeat_is_that_of_transformers(python: str, tmp_path: Path) -> None:
    """With 19 patches on a side, transformers gives one place to two patches."""
    source = checkpoint(python, tmp_path / "source", "--side", "152", family="smolvlm")
    (tmp_path / "work").mkdir()
    told, _ = as_told(source, tmp_path / "work")
    done = graphs(python, told, tmp_path / "graphs")
    assert done.returncode == 0, done.stderr
    views = np.random.default_rng(5).standard_normal((2, 3, 152, 152), np.float32)
    said: dict[str, Any] = torch_says(
        python, source, {"pixels_0": views}, tmp_path, family="smolvlm"
    )
    found = features_of_views(session(tmp_path / "graphs" / "vision.onnx"), views)
    assert np.abs(found - said["features_0"]).max() <= TOLERANCE


def test_the_folder_has_every_part(smolvlm: Path, int8: Path) -> None:
    config = json.loads((smolvlm / "model" / "genai_config.json").read_text())["model"]
    assert config["type"] == "smolvlm"
    assert (config["vision"]["image_size"], config["vision"]["image_seq_len"]) == (128, 16)
    assert "inputs_embeds" in config["decoder"]["inputs"]
    record = json.loads((int8 / "build.json").read_text())
    assert (record["spec"]["precision"], record["spec"]["vision"]) == ("int8", "int8")
    sizes = [(each / "vision.onnx.data").stat().st_size for each in (int8, smolvlm / "model")]
    assert sizes[0] < 0.6 * sizes[1]


def test_either_class_in_one_file_or_several_makes_the_same_bytes(
    python: str, smolvlm: Path, tmp_path: Path
) -> None:
    more = ("--idefics3", "--shards")
    other = checkpoint(python, tmp_path / "source", *more, family="smolvlm")
    out = made(other, tmp_path / "out", precision="fp32", vision_precision="fp32")
    assert content(out) == content(smolvlm / "model")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_plan_says_how_large_the_parts_become(
    precision: str, smolvlm: Path, int8: Path, tmp_path: Path
) -> None:
    model = int8 if precision == "int8" else smolvlm / "model"
    request = BuildRequest(str(smolvlm / "source"), tmp_path / "planned", precision=precision)
    plan = plan_build(request, silent)
    assert plan.supported, plan.refusals
    assert plan.architecture == "SmolVLMForConditionalGeneration"
    row = plan.rows[0]
    assert row.data_bytes == (model / "model.onnx.data").stat().st_size
    parts = sum((model / f"{part}.onnx.data").stat().st_size for part in ("vision", "embedding"))
    # norms and biases of a tiny tower lie in the graph itself
    assert row.vision_bytes == pytest.approx(parts, rel=0.04)
    assert [cost.tokens for cost in row.pictures] == [19, 93, 311]


def test_a_setting_that_lacks_is_transformers_own(
    smolvlm: Path, python: str, tmp_path: Path
) -> None:
    """Each setting of the text part alone, as the text part's own class would read it."""
    config = json.loads((smolvlm / "source" / "config.json").read_text())
    names = [name for name in config["text_config"] if name not in ("model_type", "architectures")]
    for name in names:
        text = {key: value for key, value in config["text_config"].items() if key != name}
        told = config | {"text_config": text}
        for kind, given in (("whole", told), ("alone", text_config(told))):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps(given))
    code = (
        "import json, sys; from pathlib import Path; from transformers import AutoConfig\n"
        "read = lambda path: AutoConfig.from_pretrained(path).get_text_config().to_dict()\n"
        "print(json.dumps([read(path) for path in sys.argv[1:]], default=str))"
    )
    paths = [str(tmp_path / name / kind) for name in names for kind in ("whole", "alone")]
    done = subprocess.run([python, "-c", code, *paths], capture_output=True, text=True, check=True)
    read = json.loads(done.stdout.splitlines()[-1])
    for name, whole, alone in zip(names, read[::2], read[1::2], strict=True):
        other = {
            key: (value, alone.get(key)) for key, value in whole.items() if alone.get(key) != value
        }
        assert other.keys() <= {"architectures", "_name_or_path"}, (name, other)


@pytest.mark.parametrize(
    ("file", "keys", "value", "said"),
    [
        ("config.json", ("vision_config", "hidden_act"), "gelu", "hidden_act is gelu"),
        ("config.json", ("text_config", "model_type"), "mistral", "is mistral, not a Llama"),
        ("config.json", ("scale_factor",), 3, "no multiple of scale_factor 3"),
        ("preprocessor_config.json", ("resample",), 3, "resample is 3, not 1"),
        ("preprocessor_config.json", ("image_mean",), [0.4, 0.4, 0.4], "image_mean is"),
        ("processor_config.json", ("image_seq_len",), 64, "image_seq_len is 64"),
    ],
)
def test_another_part_that_sees_is_refused_by_name(
    file: str, keys: tuple[str, ...], value: object, said: str, smolvlm: Path, tmp_path: Path
) -> None:
    other = tmp_path / "source"
    shutil.copytree(smolvlm / "source", other)
    whole = told = json.loads((other / file).read_text())
    for key in keys[:-1]:
        told = told[key]
    told[keys[-1]] = value
    (other / file).write_text(json.dumps(whole))
    with pytest.raises(UsageError) as caught:
        made(other, tmp_path / "out")
    assert said in caught.value.why
    plan = plan_build(BuildRequest(str(other), tmp_path / "out"), silent)
    assert [each.why for each in plan.refusals] == [caught.value.why]
    assert not (tmp_path / "out").exists()


def test_the_lint_names_a_changed_weight_and_setting_of_the_part_that_sees(
    smolvlm: Path, python: str, tmp_path: Path
) -> None:
    record = read_record(smolvlm / "model")
    assert record is not None
    model = tmp_path / "model"
    shutil.copytree(smolvlm / "model", model)
    told, _ = as_told(smolvlm / "source", tmp_path)
    asked, runner = asked_of(record.spec, told), HostRunner(Path(python))
    assert refused(check_folder(model, asked, runner, tmp_path, silent, told)) == set()
    data = np.fromfile(model / "vision.onnx.data", np.float32)
    data[len(data) // 2] += 1
    data.tofile(model / "vision.onnx.data")
    config = model / "genai_config.json"
    # a device would cut views of twice the side, each of which the graph reads as four
    text = config.read_text().replace('"image_size": 128', '"image_size": 256')
    config.write_text(text.replace('"image_seq_len": 16', '"image_seq_len": 64'))
    found = refused(check_folder(model, asked, runner, tmp_path, silent, told))
    assert found == {"vision-weights", "model-settings"}


def gated(model: Path, source: Path, python: str, work: Path) -> GateReport:
    record = read_record(model)
    assert record is not None
    work.mkdir(exist_ok=True)
    told, _ = as_told(source, work)
    subject = Subject(model, told, record.spec, None, told)
    return assess(
        subject, PROFILES["small"], HostRunner(Path(python)), silent,
        effort=EFFORT, attribution=False, sensitivity=False,
    )  # fmt: skip


def test_the_gate_passes_sound_builds_and_refuses_one_that_looks_away(
    smolvlm: Path, int8: Path, python: str, tmp_path: Path
) -> None:
    source = smolvlm / "source"
    for name, model in (("fp32", smolvlm / "model"), ("int8", int8)):
        report = gated(model, source, python, tmp_path / name)
        assert report.verdict.passed, report.verdict.findings
        pictures = report.pictures
        assert pictures is not msgspec.UNSET
        assert {score.tokens for score in pictures.scores} == {16, 48}
        assert pictures.swap is not None
        assert pictures.swap > 0.7
        if name == "fp32":
            assert pictures.feature_error < TOLERANCE
            assert pictures.kl < 1e-5
            assert pictures.first == 1
            assert report.metrics.template_mismatches == 0
    blind = tmp_path / "blind"
    shutil.copytree(smolvlm / "model", blind)
    data = np.fromfile(blind / "vision.onnx.data", np.float32)
    data[-64 * 1024 :] = 0  # the projection, which is written last
    data.tofile(blind / "vision.onnx.data")
    report = gated(blind, source, python, tmp_path / "blind-work")
    assert {"picture_features", "picture_swap"} <= {
        finding.name for finding in report.verdict.findings
    }

"""A plan against what is built afterwards, and against the installed builder; and that making one
downloads no weights. The hub is a stand-in; the client is Hugging Face's own."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from edgekit.builder.plan.gather import gather, plan_build
from edgekit.builder.plan.plan import Plan, PlannedModel
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.support.architectures import ARCHITECTURES
from edgekit.builder.support.seeing.smolvlm import SMOLVLM
from edgekit.cli.model.plan import plan_text
from edgekit.errors import EdgekitError, UnreachableError, UsageError
from tests.building import edgekit_build, make_tiny, silent

pytestmark = pytest.mark.timeout(600)

INDEX = "model.safetensors.index.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "some/large"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 2,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
SHAPES = {
    "model.embed_tokens.weight": [128256, 4096],
    "model.norm.weight": [4096],
    "lm_head.weight": [128256, 4096],
} | {
    f"model.layers.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in {
        "input_layernorm": [4096],
        "post_attention_layernorm": [4096],
        "self_attn.q_proj": [4096, 4096],
        "self_attn.k_proj": [1024, 4096],
        "self_attn.v_proj": [1024, 4096],
        "self_attn.o_proj": [4096, 4096],
        "mlp.gate_proj": [14336, 4096],
        "mlp.up_proj": [14336, 4096],
        "mlp.down_proj": [4096, 14336],
    }.items()
}


def planned(model: str | Path, **asked: Any) -> Plan:
    asked.setdefault("out", Path("nowhere"))
    return plan_build(BuildRequest(model=str(model), **asked), silent)


def only(plan: Plan) -> PlannedModel:
    assert len(plan.rows) == 1
    return plan.rows[0]


# --- against what is built -----------------------------------------------------------------------


def assert_as_planned(plan: Plan, built: Path) -> None:
    row = only(plan)
    assert plan.supported, plan_text(plan)
    assert row.exact
    assert row.data_bytes == (built / "model.onnx.data").stat().st_size
    assert row.graph_bytes == pytest.approx((built / "model.onnx").stat().st_size, rel=0.2)
    decoder = json.loads((built / "genai_config.json").read_text())["model"]["decoder"]
    layers, heads, size = (
        decoder[key] for key in ("num_hidden_layers", "num_key_value_heads", "head_size")
    )
    assert row.kv_bytes_per_token == 2 * layers * heads * size * 4


def test_smollm2_becomes_as_large_as_its_plan_said(smollm2: Path) -> None:
    plan = planned(smollm2_gguf())
    assert_as_planned(plan, smollm2)
    record = json.loads((smollm2 / "build.json").read_text())
    assert only(plan).recipe == record["recipe"]
    total = sum(path.stat().st_size for path in smollm2.iterdir())
    assert only(plan).output_bytes == pytest.approx(total, rel=0.05)


@pytest.mark.parametrize("recipe", ["plain", "k-quant-mixed", "int8"])
def test_a_tiny_gemma_becomes_as_large_as_its_plan_said(
    recipe: str, python: str, tmp_path: Path
) -> None:
    source = make_tiny(python, "gemma", tmp_path / "tiny-gemma")
    out = tmp_path / "out"
    done = edgekit_build("--host", "--no-gate", "-m", source, "-o", out, "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    assert_as_planned(planned(source, recipe=recipe), out)


# --- against the installed builder ---------------------------------------------------------------


def test_the_architectures_are_those_of_the_locked_builder() -> None:
    package = importlib.util.find_spec("onnxruntime_genai")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "models" / "builder.py").read_text()
    compared = set(re.findall(r'config\.architectures\[0\] == "(\w+)"', source))
    # the builder knows neither; it makes their text part as a Llama
    assert compared == set(ARCHITECTURES) - set(SMOLVLM)


# --- what is refused before anything is made -----------------------------------------------------


def with_config(source: Path, folder: Path, **changes: Any) -> Path:
    """A folder with the same weights and another config.json."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["PhiMoEForCausalLM"]}, "CUDA alone"),
        ({"architectures": ["MixtralForCausalLM"]}, "does not know MixtralForCausalLM"),
        ({"architectures": ["InternLM2ForCausalLM"]}, "code out of the model's repository"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "RoPE scaling"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_with_what_to_do(
    changes: dict[str, Any], said: str, qwen2: Path, tmp_path: Path
) -> None:
    plan = planned(with_config(qwen2, tmp_path / "model", **changes))
    assert not plan.supported
    assert said in plan.refusals[0].what
    assert plan.refusals[0].next_step
    assert said in plan_text(plan)


def test_a_refusal_comes_before_what_config_leaves_out(qwen2: Path, tmp_path: Path) -> None:
    model = with_config(
        qwen2,
        tmp_path / "model",
        architectures=["WhisperForConditionalGeneration"],
        num_attention_heads=None,
    )
    plan = planned(model)
    assert "speech" in plan.refusals[0].what
    assert plan.rows == ()


def test_code_of_the_repository_is_planned_when_it_is_trusted(qwen2: Path, tmp_path: Path) -> None:
    model = with_config(qwen2, tmp_path / "model", architectures=["InternLM2ForCausalLM"])
    assert planned(model, trust_remote_code=True).supported


def test_older_weights_are_refused_and_estimated(qwen2: Path, tmp_path: Path) -> None:
    model = with_config(qwen2, tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    plan = planned(model)
    assert "no weights that a build reads" in plan.refusals[0].what
    whole = only(planned(qwen2)).data_bytes
    assert only(plan).data_bytes == pytest.approx(whole, rel=0.05)
    assert not only(plan).exact


def test_a_cut_weight_file_is_an_error(qwen2: Path, tmp_path: Path) -> None:
    model = with_config(qwen2, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UsageError, match="only half there"):
        planned(model)


def test_a_name_of_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        planned(tmp_path / "none.gguf")
    (tmp_path / "none.gguf").write_bytes(b"no")
    with pytest.raises(UsageError, match="is not a GGUF file"):
        planned(tmp_path / "none.gguf")


def test_a_contradiction_is_refused_as_a_build_refuses_it(qwen2: Path) -> None:
    with pytest.raises(UsageError, match="recipe int8 is int8, not int4"):
        planned(qwen2, recipe="int8", precision="int4")
    with pytest.raises(UsageError, match="auto chooses"):
        planned(qwen2, recipe="auto", precision="int4")
    with pytest.raises(UsageError, match="unknown"):
        planned(qwen2, precision="int5")


# --- on the hub ----------------------------------------------------------------------------------


@dataclass
class Hub:
    """A hub with a model whose weights are holes of the right size; it records what it served."""

    address: str
    served: Counter[str] = field(default_factory=Counter)


def write_weights(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file with a header and a hole."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with 3 GB of weights in two files, which take no space."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "tokenizer.json").write_text("{}")
    names = sorted(SHAPES)
    where: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        write_weights(folder / file, {n: SHAPES[n] for n in part})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return folder


def handler(files: dict[str, Path], hub: Hub, *, gated: bool) -> type[BaseHTTPRequestHandler]:
    """What answers for `serving`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            name = path.rpartition("/")[2]
            if gated or not path.startswith((f"/api/models/{NAME}", f"/{NAME}/resolve/{COMMIT}/")):
                self.send_response(HTTPStatus.FORBIDDEN if gated else HTTPStatus.NOT_FOUND)
                self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path.endswith(f"/tree/{COMMIT}"):
                tree = [
                    {"type": "file", "path": name, "size": each.stat().st_size, "oid": "0" * 40}
                    for name, each in files.items()
                ]
                self.give(json.dumps(tree).encode(), "listing")
            elif path.startswith("/api/"):
                self.give(json.dumps({"id": NAME, "sha": COMMIT}).encode(), "listing")
            else:
                self.give_file(name)

        def give_file(self, name: str) -> None:
            size = files[name].stat().st_size
            asked = self.headers.get("Range", "").removeprefix("bytes=")
            if not asked and size > 1 << 20:
                hub.served[name] += size  # enough to fail the test, without sending it
                self.send_error(HTTPStatus.INSUFFICIENT_STORAGE)
                return
            first, _, last = asked.partition("-")
            begin, end = int(first or 0), min(int(last or size - 1), size - 1) + 1
            with files[name].open("rb") as file:
                file.seek(begin)
                self.give(file.read(end - begin), name, f"bytes {begin}-{end - 1}/{size}")

        def give(self, data: bytes, name: str, part: str = "") -> None:
            ranged = part and "Range" in self.headers
            self.send_response(HTTPStatus.PARTIAL_CONTENT if ranged else HTTPStatus.OK)
            self.send_header("Content-Length", str(len(data)))
            if ranged:
                self.send_header("Content-Range", part)
            self.send_header("ETag", f'"{name}"')  # Hugging Face's cache tells files by it
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                hub.served[name] += len(data)
                self.wfile.write(data)

    return Handler


@contextmanager
def serving(folder: Path, *, gated: bool = False) -> Iterator[Hub]:
    """Serve a folder as `some/large`, whole files and ranges of them."""
    files = {path.name: path for path in folder.iterdir()}

    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(files, hub, gated=gated))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return monkeypatch


def test_a_plan_of_a_model_on_the_hub_downloads_no_weights(
    large: Path, online: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(large) as hub:
        online.setenv("HF_ENDPOINT", hub.address)
        plan = planned(NAME, hub_cache=tmp_path / "cache")
    on_disk = sum(path.stat().st_size for path in large.iterdir())
    assert plan.download_bytes == on_disk > 2.9e9
    assert sum(hub.served.values()) < 300_000
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    here = planned(large)
    assert only(plan).data_bytes == only(here).data_bytes
    assert only(plan).exact
    assert plan.parameters == here.parameters == sum(math.prod(shape) for shape in SHAPES.values())


def test_what_a_repository_lacks_is_said_before_it_is_downloaded(
    large: Path, online: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def said(cache: str) -> str:
        with serving(large) as hub:
            online.setenv("HF_ENDPOINT", hub.address)
            plan = planned(NAME, hub_cache=tmp_path / cache)
        assert not plan.supported
        return f"{plan.refusals[0].what} | {plan.refusals[0].why}"

    (large / "adapter_config.json").write_text("{}")
    assert "holds a model and an adapter" in said("adapter")
    (large / "adapter_config.json").unlink()
    (large / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in said("shard")
    (large / INDEX).unlink()
    assert "neither model.safetensors nor" in said("index")
    first = large / "model-00001-of-00002.safetensors"
    first.rename(large / "model.safetensors")
    assert "the checkpoint lacks" in said("tensors")


def test_a_gated_model_is_one_error_that_says_what_to_do(
    large: Path, online: pytest.MonkeyPatch
) -> None:
    with serving(large, gated=True) as hub:
        online.setenv("HF_ENDPOINT", hub.address)
        with pytest.raises(EdgekitError, match="asks for its terms to be accepted"):
            planned(NAME)


def test_a_name_that_the_hub_does_not_know_is_a_usage_error(
    large: Path, online: pytest.MonkeyPatch
) -> None:
    with serving(large) as hub:
        online.setenv("HF_ENDPOINT", hub.address)
        with pytest.raises(UsageError, match="neither here nor on Hugging Face"):
            planned("other/one")


def test_a_repository_without_config_is_not_a_model(
    large: Path, online: pytest.MonkeyPatch
) -> None:
    (large / "config.json").unlink()
    with serving(large) as hub:
        online.setenv("HF_ENDPOINT", hub.address)
        with pytest.raises(UsageError, match="not a model that can be built"):
            planned(NAME)


def test_a_hub_that_does_not_answer_is_said_to_be_unreachable(online: pytest.MonkeyPatch) -> None:
    online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        gather(BuildRequest(model=NAME, out=Path("nowhere")), silent)

"""The low-memory route makes the same bytes as the stock route, or says why it was not taken."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from edgekit.builder.tools.process import INSIDE
from tests.building import TESTS, environment

pytestmark = pytest.mark.timeout(600)

Case = dict[str, Any]
SEARCHED = {"algo_config": "k_quant"}
MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}


def case(name: str, model: str, precision: str = "int4", /, **more: Any) -> Case:
    return {"name": name, "model": model, "precision": precision, "options": {}, **more}


EQUAL: tuple[Case, ...] = (
    case("plain", "sharded"),
    case("asymmetric", "sharded", options={"is_symmetric": "false"}),
    case("block-16", "sharded", options={"block_size": "16"}),
    case("block-64", "sharded", options={"block_size": "64"}),
    case("block-128", "sharded", options={"block_size": "128"}),
    case("head-8", "sharded", options={"matmul_mixed_precision": "last_matmul:int8"}),
    case("mixed", "sharded", options=MIXED),
    case("rtn", "sharded", options={"algo_config": "rtn"}),
    case("k-quant", "even", options=SEARCHED),
    case("k-quant-64", "even", options={**SEARCHED, "block_size": "64"}),
    case("k-quant-mixed", "even", options={**SEARCHED, **MIXED}),
    case("k-quant-mixed-alias", "even", options={"algo_config": "k_quant_mixed"}),
    case("int8", "sharded", "int8"),
    case("int8-k-quant", "even", "int8", options=SEARCHED),
    case("fp32", "sharded", "fp32"),
    case("fp16", "sharded", "fp16"),
    case("cuda", "sharded", provider="cuda"),
    case("cuda-bf16", "sharded", provider="cuda", options={"use_cuda_bf16": "true"}),
    case("webgpu-rtn", "sharded", provider="webgpu", options={"algo_config": "rtn"}),
    case("qdq", "sharded", options={"use_qdq": "true"}),
    case("embedding", "sharded", options={"op_types_to_quantize": "MatMul/Gather"}),
    case("excluded", "sharded", options={"nodes_to_exclude": "/lm_head/MatMul"}),
    case("unfused", "sharded", options={"disable_qkv_fusion": "true"}),
    case("fused-mlp", "sharded", options={"fuse_mlp_gate_up": "true"}),
    case("tied", "tied"),
    case("tied-k-quant-mixed", "even-tied", options={**SEARCHED, **MIXED}),
    case("tied-fp32", "tied", "fp32"),
    case("tied-int8", "tied", "int8"),
    case("adapter", "even-tied", options={"adapter_path": "adapter"}),
    case("adapter-k-quant", "even-tied", options={"adapter_path": "adapter", **SEARCHED}),
    case("phi3", "phi3"),
    case("phi3-k-quant-mixed", "phi3", options={**SEARCHED, **MIXED}),
    case("gemma", "gemma"),
    case("qwen2", "qwen2"),
    case("qwen2-fp32", "qwen2", "fp32"),
    case("known", "gemma", path="auto"),
)
PLANTED: tuple[Case, ...] = (
    case("wrong-search", "even-tied", options=SEARCHED, plant="search"),
    case("no-such-name", "gemma", plant="name"),
    case("stub-left", "gemma", plant="stub"),
    case("new-versions", "gemma", path="auto", plant="versions"),
    case("new-versions-differ", "gemma", path="auto", plant="different"),
    case("again", "gemma"),  # after the plants: everything is as it was
)


@pytest.fixture(scope="module")
def built(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of all cases, from one process, because torch takes long to load."""
    folder = tmp_path_factory.mktemp("lowmem")
    cases, made = folder / "cases.json", folder / "results.json"
    cases.write_text(json.dumps(EQUAL + PLANTED), encoding="utf-8")
    done = subprocess.run(
        [python, TESTS / "models/convert_ways.py", INSIDE, folder, cases, made],
        capture_output=True,
        text=True,
        timeout=220,
        env=environment(ORT_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1"),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, dict[str, Any]] = json.loads(made.read_text(encoding="utf-8"))
    return results


@pytest.mark.parametrize("name", [case["name"] for case in EQUAL])
def test_both_paths_make_the_same_bytes(built: dict[str, dict[str, Any]], name: str) -> None:
    made = built[name]
    assert "error" not in made["result"], made["result"]
    assert {"model.onnx", "model.onnx.data", "genai_config.json"} <= made["stock"].keys()
    assert made["low"] == made["stock"]
    assert (made["result"]["path"], made["result"]["note"]) == ("low-memory", "")


def test_quantised_weights_went_around_the_protobuf(built: dict[str, dict[str, Any]]) -> None:
    for name in ("plain", "asymmetric", "rtn", "k-quant", "k-quant-mixed", "int8", "adapter"):
        result = built[name]["result"]
        # nine layers of at least four matrices, and the embedding; a matrix and its scales each
        assert result["outside"] > 9 * 4, name
        assert result["spooled"] > 2 * 9 * 4, name
    assert built["fp32"]["result"]["outside"] == 0  # nothing is quantised


def test_progress_never_goes_back_and_counts_the_matrices(
    built: dict[str, dict[str, Any]],
) -> None:
    for name in ("plain", "mixed", "k-quant", "fp32"):
        told = built[name]["told"]
        shares = [share for _, share in told]
        assert shares == sorted(shares)
        assert shares[0] >= 0
        assert shares[-1] < 1
    details = [detail for detail, _ in built["plain"]["told"]]
    quantising = [d for d in details if d.startswith("quantising")]
    assert quantising[-1] == f"quantising matrix {len(quantising)} of {len(quantising)}"


def test_no_spool_is_left(built: dict[str, dict[str, Any]]) -> None:
    for made in built.values():
        assert not [name for name in made["left"] if "spool" in name or "one-layer" in name]


def test_a_search_that_makes_other_bits_is_not_used(built: dict[str, dict[str, Any]]) -> None:
    made = built["wrong-search"]
    assert made["low"] == made["stock"]
    assert "onnxruntime's own function" in made["result"]["note"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("no-such-name", "has no quant_tensor any more"), ("stub-left", "left out of the model")],
)
def test_a_half_patched_builder_makes_no_model(
    built: dict[str, dict[str, Any]], name: str, says: str
) -> None:
    made = built[name]
    assert says in made["result"]["error"]
    assert not made["low"]
    assert made["left"].count("model.onnx") == 1  # the stock one


def test_new_versions_prove_themselves_on_one_layer(built: dict[str, dict[str, Any]]) -> None:
    made = built["new-versions"]
    assert made["result"]["path"] == "low-memory"
    assert made["low"] == made["stock"]
    assert made["told"][0][0] == "these versions are new: building one layer both ways"


def test_new_versions_that_differ_build_the_stock_way(built: dict[str, dict[str, Any]]) -> None:
    made = built["new-versions-differ"]
    assert made["result"] == {
        "path": "stock",
        "note": "one layer built both ways differs in model.onnx.data",
    }
    assert made["low"] == made["stock"]


def test_the_patches_are_gone_afterwards(built: dict[str, dict[str, Any]]) -> None:
    assert built["again"]["low"] == built["again"]["stock"] == built["gemma"]["stock"]

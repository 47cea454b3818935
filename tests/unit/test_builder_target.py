"""What a request asks of its provider: options that would be lost, and the gate on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.request.request import BuildRequest, check_request, recipes_for
from edgekit.errors import UsageError

SMALL = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 64}


def request(*options: str, **more: Any) -> BuildRequest:
    return BuildRequest("m", Path("out"), options=options, **more)


@pytest.mark.parametrize(
    ("option", "more", "said"),
    [
        ("enable_cuda_graph", {"provider": "cpu"}, "for -e cuda alone"),
        ("enable_cuda_fpa_intb_gemm", {"provider": "webgpu"}, "for -e cuda alone"),
        ("enable_dml_graph", {"provider": "cuda"}, "for -e dml alone"),
        ("enable_webgpu_graph", {"provider": "cuda"}, "for -e webgpu alone"),
        ("use_webgpu_fp32", {"provider": "cuda"}, "for -e webgpu alone"),
        ("use_cuda_bf16", {"provider": "cpu"}, "for -e cuda alone"),
        ("use_cuda_bf16", {"provider": "cuda", "precision": "int8"}, "for int4 alone"),
        ("use_cuda_bf16", {"provider": "cuda", "precision": "fp16"}, "for int4 alone"),
        ("use_cuda_bf16", {"provider": "cuda", "recipe": "k-quant"}, "k_quant does not go"),
    ],
)
def test_an_option_that_would_be_lost_is_refused(
    option: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        check_request(request(f"{option}=true", **more))
    assert refused.value.next_step
    if said.startswith("for -e"):  # off is what it would be anyway
        check_request(request(f"{option}=false", **more))


@pytest.mark.parametrize(
    ("option", "provider"),
    [
        ("enable_cuda_graph", "cuda"),
        ("enable_cuda_fpa_intb_gemm", "cuda"),
        ("enable_dml_graph", "dml"),
        ("use_webgpu_fp32", "webgpu"),
        ("use_cuda_bf16", "cuda"),
    ],
)
def test_an_option_of_its_provider_is_taken(option: str, provider: str) -> None:
    assert check_request(request(f"{option}=true", provider=provider)).given == {option: "true"}


def test_bfloat16_takes_no_recipe_that_cannot_write_it() -> None:
    asked = request("use_cuda_bf16=true", provider="cuda")
    assert recipes_for(asked, check_request(asked), SMALL) == ((None,), ())
    with pytest.raises(UsageError, match="rtn does not go with use_cuda_bf16"):
        check_request(request("use_cuda_bf16=true", "algo_config=rtn", provider="cuda"))


def test_weights_in_the_order_of_one_gpu_are_refused() -> None:
    with pytest.raises(UsageError, match="matmulnbits_weights_prepacked") as refused:
        check_request(request("matmulnbits_weights_prepacked=1", provider="cuda"))
    assert "enable_cuda_fpa_intb_gemm" in str(refused.value.why)


def test_a_model_that_the_gate_cannot_test_is_said_to_be_untested() -> None:
    (note,) = check_request(request(provider="cuda")).notes
    assert "the gate did not test this model" in note
    assert "cuda" in note
    assert check_request(request(provider="cuda", gate=None)).notes == ()
    assert check_request(request(provider="cpu")).notes == ()


def test_auto_chooses_only_where_the_gate_measures() -> None:
    with pytest.raises(UsageError, match="cannot choose a model for cuda") as refused:
        check_request(request(provider="cuda", recipe="auto"))
    assert "-e cpu" in str(refused.value.next_step)
    check_request(request(provider="cpu", recipe="auto"))

"""What a request may ask of its provider: options that others ignore, and the gate. Pure.

The builder reads an option of another provider, or of another precision, and drops it without a
word. What is refused here was seen with onnxruntime-genai 0.18.0 (docs/build.md, "CUDA").
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.errors import UsageError

GATED_PROVIDERS = ("cpu",)
"""The gate runs on a CPU: graphs for other providers use operators that its runtime lacks."""
UNGATED_NOTE = (
    "the gate did not test this model: it runs on a CPU, and the model is for {provider}; "
    "build.json says so"
)
_OF_PROVIDER = {
    "enable_cuda_fpa_intb_gemm": "cuda",
    "enable_cuda_graph": "cuda",
    "enable_dml_graph": "dml",
    "enable_webgpu_graph": "webgpu",
    "use_cuda_bf16": "cuda",
    "use_webgpu_fp32": "webgpu",
}


def refuse_lost_options(options: Mapping[str, str], precision: str, provider: str) -> None:
    """Refuse options that the builder ignores or fails at, for this precision and provider.

    Args:
        options: the request's and its recipe's, in canonical spelling.

    Raises:
        UsageError: names the option.
    """
    for key, only in sorted(_OF_PROVIDER.items()):
        if options.get(key) == "true" and provider != only:
            raise UsageError(
                f"the extra option {key} is for -e {only} alone",
                why=f"the model builder would silently ignore it for {provider}",
                next_step=f"leave it out, or build with -e {only}",
            )
    if options.get("use_cuda_bf16") != "true":
        return
    if precision != "int4":
        raise UsageError(
            "the extra option use_cuda_bf16 is for int4 alone",
            why=f"the model builder would silently make {precision} with float16 all the same",
            next_step="leave it out, or build with -p int4",
        )
    if options.get("algo_config", "default") != "default":
        raise UsageError(
            f"{options['algo_config']} does not go with use_cuda_bf16",
            why="onnxruntime's code for it writes float16 and float32 alone",
            next_step="write -x algo_config=default, or leave use_cuda_bf16 out",
        )

"""Progress and errors from the toolchain's output. The lines are copied from real runs."""

from __future__ import annotations

import pytest

from edgekit.builder.tools.progress import Progress, last_error, read_line, split_lines

QUANTISE = (
    "2026-11-22 22:34:52,545 onnxruntime.quantization.matmul_nbits_quantizer [INFO] - "
    "start to quantize /model/layers.12/attn/o_proj/MatMul ..."
)
SAVING = (
    "Saving model.layers.29.mlp.up_proj.MatMul.weight_Q4 (u8, [1536,18,16]):  "
    "99%|█████████▊| 360/365 [00:00<00:00, 1845.56it/s]"
)
FAILED = """Extra options: {}
Loading weights: 100%|██████████| 272/272 [00:00<00:00, 788.21it/s]
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "builder.py", line 812, in create_model
    raise NotImplementedError(f"The {hf_name} model is not currently supported.")
NotImplementedError: The x model is not currently supported.
"""
PIP = """Looking in indexes: https://pypi.org/simple
ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: )
ERROR: No matching distribution found for torch==2.13.0+cpu
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "Loading weights:  24%|██▍       | 65/272 [00:00<00:00, 610.56it/s]",
            Progress("build", "loading weights", 0.24),
        ),
        (SAVING, Progress("build", "saving weights", 0.99)),
        (QUANTISE, Progress("build", "quantising layer 12")),
        ("Reading decoder layer 3", Progress("build", "reading decoder layer 3")),
        (
            "  Downloading torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl (190.1 MB)",
            Progress("build", "downloading torch (190.1 MB)"),
        ),
        (
            "Installing collected packages: tqdm, torch",
            Progress("build", "unpacking the packages"),
        ),
        ("GroupQueryAttention (GQA) is used in this model.", None),
        ("", None),
    ],
)
def test_a_line_says_how_far_it_is(line: str, expected: Progress | None) -> None:
    assert read_line("build", line) == expected


def test_bars_end_their_lines_with_a_carriage_return() -> None:
    assert split_lines("a\rb\r\n\nc") == ["a", "b", "c"]


def test_the_exception_is_the_reason_not_the_traceback_around_it() -> None:
    wanted = "NotImplementedError: The x model is not currently supported."
    assert last_error(FAILED) == wanted


def test_a_dotted_exception_is_a_reason() -> None:
    log = "httpx2.ConnectError: [Errno 111] Connection refused\nmore about it\n"
    assert last_error(log) == "httpx2.ConnectError: [Errno 111] Connection refused"


def test_pips_last_error_is_the_reason() -> None:
    assert last_error(PIP) == "No matching distribution found for torch==2.13.0+cpu"


def test_pips_help_link_is_no_reason() -> None:
    log = "ERROR: Cannot install torch==1\nERROR: ResolutionImpossible: for help visit https://x\n"
    assert last_error(log) == "Cannot install torch==1"


def test_without_an_exception_the_last_line_that_means_something_is_the_reason() -> None:
    assert last_error(f"cannot allocate memory\n{SAVING}\n{QUANTISE}\n") == "cannot allocate memory"


def test_an_empty_log_gives_no_reason() -> None:
    assert last_error("") == ""
    assert last_error(SAVING) == ""


def test_a_reason_is_never_longer_than_a_line() -> None:
    assert len(last_error("ValueError: " + "x" * 10_000)) == 300

"""Decides whether the low-memory route makes the same bytes as the stock route.

The patches depend on the internals of four packages. With the versions below, every covered kind of
build was compared byte by byte (tests/system/test_lowmem.py). With other versions, one layer of the
model is first built by both routes, each in a process of its own.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.reporting import Reporter

COMPARED_VERSIONS: tuple[dict[str, str], ...] = (
    {
        "onnxruntime-genai": "0.18.0",
        "onnxruntime": "1.32.0",
        "onnx-ir": "1.1.0",
        "numpy": "2.4.6",
    },
)
SCRIPT = Path(__file__).resolve().parents[1] / "convert.py"

# These options make or rewrite weights in code that is not patched.
_OTHER_MODELS = ("dflash2_path", "dspark_path", "mtp_quant_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def not_covered(config: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """Why the low-memory route does not cover a model; empty where it does.

    Args:
        config: config.json of the source.
        options: the builder's options.
    """
    text = config.get("text_config") or config
    if config.get("quantization_config"):
        return "the low-memory route does not cover a checkpoint that is quantised already"
    if any(text.get(key) for key in _EXPERTS):
        return "the low-memory route does not cover mixtures of experts"
    for key in _OTHER_MODELS:
        if key in options:
            return f"the low-memory route does not cover {key}"
    return ""


def versions_compared() -> bool:
    """Whether the installed versions are among those that were compared."""
    return any(
        all(version(name) == wanted for name, wanted in versions.items())
        for versions in COMPARED_VERSIONS
    )


def differs(
    arguments: Sequence[str], options: Mapping[str, str], out: Path, report: Reporter
) -> str:
    """Build one layer by both routes and compare; the difference in words, or an empty string.

    Args:
        arguments: those of `convert.py`, without output, options, route and report.
        out: the output; both one-layer models are made beside it and removed.
    """
    cut = {**options, "num_hidden_layers": "1"}
    words = [word for key, value in cut.items() for word in ("--option", f"{key}={value}")]
    digests = []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="one-layer-") as folder:
        for number, route in enumerate(("stock", "low-memory")):
            report.progress("these versions are new: building one layer both ways", number / 2)
            made, events = Path(folder) / route, Path(folder) / f"{route}.events"
            argv = [sys.executable, "-E", "-s", str(SCRIPT), *arguments, "-o", str(made)]
            argv += [*words, "--path", route, "--report", str(events)]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                return f"one layer could not be built the {route} way: {_reason(events)}"
            digests.append(contents(made))
    names = sorted(n for n in digests[0] | digests[1] if digests[0].get(n) != digests[1].get(n))
    return f"one layer built both ways differs in {', '.join(names)}" if names else ""


def contents(model: Path) -> dict[str, str]:
    """File -> sha256 (hex) of the graph, its data and genai_config.json.

    The tokenizer's files are left out, because they do not depend on the weights.
    """
    names = {path.name for pattern in ("*.onnx", "*.onnx.data") for path in model.glob(pattern)}
    digests = {}
    for name in sorted(names | {"genai_config.json"}):
        with (model / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _reason(events: Path) -> str:
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    errors = [event for event in map(json.loads, lines) if event["event"] == "error"]
    return str(errors[0]["message"]) if errors else "it was ended from outside"

"""The part of a model that sees: its graphs, and what the folder's configuration says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.builder.files import keep_log
from edgekit.builder.spec import VisionPrecision
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import event
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.errors import UsageError

DEADLINE_SECONDS = 3600
PROCESSOR = "processor_config.json"
# as onnxruntime-genai 0.18.0 reads Phi's; the device's agent has a processor of its own
_PROCESSOR: dict[str, Any] = {
    "processor": {
        "name": "image_processing",
        "transforms": [
            {
                "operation": {
                    "name": name,
                    "domain": "com.microsoft.extensions",
                    "type": kind,
                    **({"attrs": attributes} if attributes else {}),
                }
            }
            for name, kind, attributes in (
                ("decode_image", "DecodeImage", {"color_space": "BGR"}),
                ("convert_to_rgb", "ConvertRGB", {}),
                ("phi3_image_transform", "Phi3ImageTransform",
                 {"num_crops": 16, "num_img_tokens": 144}),
            )
        ],
    }
}  # fmt: skip


def write_graphs(
    toolchain: Toolchain,
    source: Path,
    precision: VisionPrecision,
    work: Path,
    report: ProgressCallback,
) -> Path:
    """Write `vision.onnx` and `embedding.onnx` with their weights, and return their folder.

    Args:
        source: the Hugging Face folder.
        precision: of the vision part's matrices.
        work: a writable folder.

    Raises:
        UsageError: the checkpoint's vision part is not whole.
        EdgekitError: the script failed; its log is kept in the cache.
    """
    out = work / "pictures"
    job = Job(
        script="picture_graphs.py",
        arguments=("-i", source, "-o", out, "--vision-precision", precision),
        work=work,
        reads=(source,),
        shows=Progress("build", "writing the vision part"),
        deadline_seconds=DEADLINE_SECONDS,
    )
    finished = toolchain.run(job, report)
    if finished.code != 0:
        said = event(finished, "error") or {}
        if said.get("kind") == "incomplete":
            raise UsageError(
                str(said.get("message")),
                why="the part that sees would be another one than the model's",
                next_step="download the model again",
            )
        kept = keep_log(job.log, "last-failed-pictures.log")
        raise failure(
            finished, "the vision part could not be written", f"its whole output is in {kept}"
        )
    return out


def join(graphs: Path, model: Path, sections: dict[str, Any]) -> None:
    """Move the graphs into the model's folder, and tell its configuration of them.

    Args:
        graphs: a folder of `write_graphs`.
        model: the text part as the model builder left it.
        sections: of genai_config.json, from the model's family.
    """
    for file in sorted(graphs.iterdir()):
        file.rename(model / file.name)
    path = model / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"].pop("sliding_window", None)  # no layer has one
    config["model"] |= sections
    path.write_text(json.dumps(config, indent=4, ensure_ascii=False), encoding="utf-8")
    if sections["vision"].get("config_filename") == PROCESSOR:
        text = json.dumps(_PROCESSOR, indent=2)
        (model / PROCESSOR).write_text(f"{text}\n", encoding="utf-8")

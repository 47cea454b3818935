"""A tiny model that takes pictures, as a build leaves it: source, and the folder for a device."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import OFFLINE, clean_environment
from tests.building import silent
from tests.pictured import checkpoint, graphs

OF_REMOTE_CODE = ("auto_map", "embd_layer", "img_processor", "_attn_implementation")


def vision_folder(folder: Path) -> Path:
    """Make `source`, a checkpoint, and `model` of it, in FP32.

    Returns:
        The folder with both.
    """
    folder.mkdir(parents=True)
    python = HostToolchain().ready(silent).python
    source = checkpoint(python, folder / "source")
    out = folder / "model"
    view = folder / "view"  # the text part alone
    view.mkdir()
    for file in source.iterdir():
        if file.suffix != ".py":
            (view / file.name).symlink_to(file.resolve())
    (view / "config.json").unlink()
    config = json.loads((source / "config.json").read_text("utf-8"))
    config = {name: value for name, value in config.items() if name not in OF_REMOTE_CODE}
    config |= {"model_type": "phi3"}
    config["rope_scaling"]["type"] = "longrope"
    (view / "config.json").write_text(json.dumps(config), "utf-8")
    subprocess.run(
        [
            *(python, "-E", "-s", "-m", "onnxruntime_genai.models.builder"),
            *("-i", view, "-o", out, "-p", "fp32", "-e", "cpu", "-c", folder / "cache"),
            *("--extra_options", "exclude_embeds=true", "hf_remote=false"),
        ],
        check=True, capture_output=True, timeout=200, env=clean_environment(OFFLINE),
    )  # fmt: skip
    assert graphs(python, source, folder / "graphs").returncode == 0
    for file in (folder / "graphs").iterdir():
        file.rename(out / file.name)
    written = out / "genai_config.json"
    made = json.loads(written.read_text("utf-8"))
    made["model"] |= {name: {"filename": f"{name}.onnx"} for name in ("vision", "embedding")}
    made["model"]["decoder"].pop("sliding_window", None)
    made["search"]["max_length"] = 4096
    written.write_text(json.dumps(made), "utf-8")
    return folder

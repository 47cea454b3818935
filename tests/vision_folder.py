"""A tiny model that takes pictures: its checkpoint, and the folder that a build makes of it."""

from __future__ import annotations

from pathlib import Path

from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostToolchain
from tests.building import silent
from tests.pictured import checkpoint


def vision_folder(folder: Path, *shape: str, family: str = "phi3v") -> Path:
    """Make `source`, a checkpoint, and `model` of it, in FP32 and without the gate.

    Args:
        folder: takes both.
        shape: options of the script that makes the checkpoint.
        family: `phi3v` or `smolvlm`.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    source = checkpoint(
        HostToolchain().ready(silent).python, folder / "source", *shape, family=family
    )
    request = BuildRequest(
        str(source), folder / "model", precision="fp32", vision_precision="fp32", gate=None
    )
    build(request, silent)
    return folder

"""One tiny model of a family, built with the product's own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostToolchain
from tests.building import run_script, silent
from tests.matrix.shapes import FAMILIES


def family_model(folder: Path, name: str, **how: Any) -> Path:
    """A tiny model with random weights, ungated.

    Args:
        folder: takes the source and the model.
        name: of the family in the matrix.
        how: of the build request.
    """
    family = next(each for each in FAMILIES if each.name == name)
    listed = folder / "listed.json"
    wanted = msgspec.to_builtins(family) | {
        "architecture": family.architecture,
        "out": str(folder / "source"),
    }
    listed.write_text(json.dumps([wanted]))
    python = HostToolchain().ready(silent).python
    run_script(python, "models/make_tiny_model.py", "--many", listed)
    request = BuildRequest(model=str(folder / "source"), out=folder / "model", gate=None, **how)
    return build(request, silent).out

"""`init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render


def init(
    folder: Annotated[Path, typer.Argument(help="Where the project is made.")] = Path(),
    port: Annotated[int, typer.Option(help="Port of the broker on this machine.")] = 1883,
) -> None:
    """Write edgekit.toml and fleet.toml; files that exist stay as they are.

    \b
    Example:  edgekit init my-fleet
    """
    for path, written in project.init(folder, port):
        render.say(f"{'wrote' if written else 'kept '}  {path}")

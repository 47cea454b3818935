"""`init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.trust import present, trust_of
from edgekit.signing.manage import ensure
from edgekit.signing.roles import ROLES


def init(
    folder: Annotated[Path, typer.Argument(help="Where the project is made.")] = Path(),
    port: Annotated[int, typer.Option(help="Port of the broker on this machine.")] = 1883,
    no_keys: Annotated[
        bool,
        typer.Option("--no-keys", help="Make no trust: `edgekit import` brings another project's."),
    ] = False,
) -> None:
    """Write edgekit.toml, fleet.toml, keys and trust/; what exists stays as it is.

    \b
    Example:  edgekit init my-fleet
    """
    for path, written in project.init(folder, port):
        render.say(f"{'wrote' if written else 'kept '}  {path}")
    if no_keys:
        return
    trust = trust_of(folder)
    made = ensure(trust, present())
    held = {path.name for path in trust.keys.held().values()}
    for role in ROLES:
        if f"{role}.pem" in held:
            render.say(f"{'wrote' if made else 'kept '}  {trust.keys.folder / f'{role}.pem'}")
    render.say(f"{'wrote' if made else 'kept '}  {trust.folder.folder}")
    if made:
        render.say(
            "note   keep the keys root and targets offline once devices depend on them: "
            "`edgekit key export root /media/usb`"
        )

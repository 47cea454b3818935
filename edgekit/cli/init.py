"""`init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.sign import KEY_NAME, make_key
from edgekit.cli import project, render
from edgekit.cli.options import MOST_PORT
from edgekit.cli.release.trust import present, trust_of
from edgekit.errors import UsageError
from edgekit.signing.manage import ensure
from edgekit.signing.roles import ROLES

PROJECT_TOML = """\
# The edgekit project of this folder. A flag wins over it, and so does EDGEKIT_BROKER=HOST[:PORT].

[broker]
host = "127.0.0.1"
port = {port}
"""

FLEET_TOML = """\
# The devices of this project.
#   address = "ssh:pi@raspberrypi.local"   or a Host of ~/.ssh/config
#   address = "local:.edgekit/devices/demo" a folder of this machine that plays a device

[devices.demo]
address = "local:.edgekit/devices/demo"
"""


def write_project(folder: Path, port: int) -> list[tuple[Path, bool]]:
    """Write a project's files and its signing key; existing files stay.

    Returns:
        (path, whether this call wrote it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        project.FILE: PROJECT_TOML.format(port=port),
        "fleet.toml": FLEET_TOML,
        ".gitignore": "/.edgekit/\n",
    }
    done = []
    for name, text in texts.items():
        path = folder / name
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            done.append((path, True))
        except FileExistsError:
            if path.is_dir():
                raise UsageError(
                    f"{path} is a folder, and a project has a file there",
                    next_step="move it away, then run `edgekit init` again",
                ) from None
            done.append((path, False))
    (folder / ".edgekit").mkdir(mode=0o700, exist_ok=True)
    keys = project.keys_folder(folder)
    done.append((keys / KEY_NAME, make_key(keys)))
    return done


def init(
    folder: Annotated[Path, typer.Argument(help="Where the project is made.")] = Path(),
    port: Annotated[
        int, typer.Option(min=1, max=MOST_PORT, help="Port of the broker on this machine.")
    ] = 1883,
    no_keys: Annotated[
        bool,
        typer.Option("--no-keys", help="Make no trust: `edgekit import` brings another project's."),
    ] = False,
) -> None:
    """Write edgekit.toml, fleet.toml, keys and trust/; what exists stays as it is.

    \b
    Example:  edgekit init my-fleet
    """
    for path, written in write_project(folder, port):
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

"""Options that several verbs have."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

import typer

from edgekit.core.config import MOST_SECONDS
from edgekit.errors import UsageError

MOST_PORT = 65535  # of TCP; the system takes a larger one modulo 65536
ProjectOption = Annotated[
    Path | None, typer.Option("--project", help="The project's folder; default: found upwards.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DevicesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Devices, groups, 'pi-*', tag=T, site=S, '!WORD'; default: all."),
]
AccountOption = Annotated[
    str, typer.Option("--username", help="Account that writes; default: of edgekit.toml.")
]
PasswordFileOption = Annotated[
    Path | None, typer.Option("--password-file", help="File with the password of --username.")
]
TakeOverOption = Annotated[
    bool, typer.Option("--take-over", help="Break the lease of another operator, who is told.")
]


def check_seconds(option: str, value: float, least: float = 0.0) -> None:
    """Check the time that an option names: a range of typer lets `nan` and `inf` pass.

    Raises:
        UsageError: it is not between `least` and a day.
    """
    if not least <= value <= MOST_SECONDS:
        raise UsageError(
            f"{option} {value:g} is no number of seconds that can be used",
            f"it is {least:g} to {MOST_SECONDS:g}",
            f"write it like {option} 30",
        )


def replaceable(path: Path, begins: bytes, what: str) -> Path:
    """Where to write a file: where a link leads, and over no file but one of the same kind.

    A file is put in its place by rename: as root that would replace /dev/null itself.

    Args:
        path: where a verb is about to write.
        begins: with what each such file begins.
        what: such a file, in words.

    Raises:
        UsageError: the path is no file, such as a folder or a device, or holds something else.
    """
    place = Path(os.path.realpath(path))
    try:
        regular = stat.S_ISREG(place.stat().st_mode)
        found = _start(place, len(begins)) if regular else b""
    except FileNotFoundError:
        return place
    if not regular:
        raise UsageError(
            f"{path} is no file: it cannot be replaced", next_step="name a file to write"
        )
    if found and found != begins:
        raise UsageError(
            f"{path} exists, and is no {what}",
            "what it holds would be lost",
            "name another file, or move that one away",
        )
    return place


def _start(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)

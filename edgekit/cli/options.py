"""Options that several verbs have."""

from __future__ import annotations

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


def check_replaceable(path: Path, begins: bytes, what: str) -> None:
    """Refuse to write over a file that is none of what is written there.

    Args:
        path: where a verb is about to write.
        begins: with what each such file begins.
        what: such a file, in words.

    Raises:
        UsageError: the path is a folder, or the file holds something else.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", next_step=f"name a file in it: {path / 'NAME'}")
    try:
        with path.open("rb") as file:
            found = file.read(len(begins))
    except FileNotFoundError:
        return
    if found and found != begins:
        raise UsageError(
            f"{path} exists, and is no {what}",
            "what it holds would be lost",
            "name another file, or move that one away",
        )

"""`man`: the manual pages of edgekit, made from the commands themselves (man(7))."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import edgekit
from edgekit.cli import render
from edgekit.cli.options import JsonOption
from edgekit.store import publish

SECTION = 1


def man(
    folder: Annotated[Path, typer.Argument(help="Where the pages are written.")],
    as_json: JsonOption = False,
) -> None:
    """Write the manual pages of edgekit and of each verb into a folder.

    \b
    Example:  edgekit man ~/.local/share/man/man1
              man edgekit-push
    """
    from edgekit.cli.main import application  # noqa: PLC0415  imports every verb

    with render.working("reading the commands"):
        pages = dict(pages_of(typer.main.get_command(application()), "edgekit"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        publish(folder / name, text.encode(), 0o644)
    if as_json:
        render.print_json({"folder": str(folder), "pages": sorted(pages)})
        return
    render.say(f"wrote  {len(pages)} pages to {folder}")


def pages_of(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """The page of a command and those of the commands below it: file name and text."""
    context = command.context_class(command, info_name=name)
    below = getattr(command, "commands", {})  # typer brings its own click: no class to ask for
    yield f"{name.replace(' ', '-')}.{SECTION}", page(command, context, name, below)
    for word, each in below.items():
        if not each.hidden:
            yield from pages_of(each, f"{name} {word}")


def page(command: Any, context: Any, name: str, below: dict[str, Any]) -> str:
    """One manual page."""
    title = name.replace(" ", "-")
    text = inspect.cleandoc(command.help or "")
    first = text.split("\n\n", 1)[0].replace("\n", " ") or name
    usage = " ".join(command.collect_usage_pieces(context))
    day = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f'.TH "{title.upper()}" {SECTION} "{day}" "edgekit {edgekit.__version__}" "edgekit"',
        *(".SH NAME", rf"{_quoted(title)} \- {_quoted(first.rstrip('.'))}"),
        *(
            ".SH SYNOPSIS",
            f".B {_quoted(name)}",
            _quoted(usage),
        ),
        *(".SH DESCRIPTION", *_paragraphs(text)),
    ]
    records = [each.get_help_record(context) for each in command.get_params(context)]
    for words, said in [record for record in records if record]:
        lines += [".TP", rf"\fB{_quoted(words)}\fR", _quoted(" ".join(said.split())) or r"\&"]
    if below:
        lines.append(".SH COMMANDS")
        for word, each in below.items():
            short = inspect.cleandoc(each.help or "").split("\n\n", 1)[0]
            lines += [".TP", rf"\fB{_quoted(f'{title}-{word}')}\fR({SECTION})"]
            lines.append(_quoted(" ".join(short.split())) or r"\&")
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a help text; one after `\\b` keeps its lines, as click has it."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        own = paragraph.split("\n")
        if own[0] == "\b":
            lines += [".PP", ".nf", *(_quoted(line) or r"\&" for line in own[1:]), ".fi"]
        else:
            lines += [".PP", _quoted(" ".join(own))]
    return lines


def _quoted(text: str) -> str:
    """Text as roff prints it: no escape, no request, and hyphens that can be copied."""
    quoted = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{quoted}" if quoted.startswith((".", "'")) else quoted

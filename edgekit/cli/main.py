"""The `edgekit` command: verbs parse, call a part and render. Errors become exits only here."""

from __future__ import annotations

import errno
import io
import os
import sys
from pkgutil import resolve_name
from typing import Annotated

import typer

import edgekit
from edgekit.cli import render
from edgekit.cli.verbs import VERBS
from edgekit.errors import EdgekitError

HELP = """\
Takes a language model from Hugging Face to an answer on every edge device of a fleet.

\b
Example:  edgekit init
          edgekit build --host -m ORG/NAME -o FOLDER
          edgekit pack FOLDER --name NAME
          edgekit push
          edgekit ask demo "What is the capital of France?"
"""


def _version(wanted: bool) -> None:
    if wanted:
        render.say(f"edgekit {edgekit.__version__}")
        raise typer.Exit


def _options(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def application(verb: str = "") -> typer.Typer:
    """The command line with that verb alone; with every verb, unless it is one of them."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=HELP,
    )
    app.callback()(_options)
    for name in (verb,) if verb in VERBS else VERBS:
        found = resolve_name(f"edgekit.cli.{VERBS[name]}")
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _verb(words: list[str]) -> str:
    """The verb of a command line; for the version alone one that imports little will do."""
    if words == ["--version"]:
        return "man"
    return next((word for word in words if word[:1] != "-"), "")


def _say_what_can_be_said() -> None:
    """What the encoding of standard output lacks becomes a question mark, and no traceback.

    A user who has chosen something else by PYTHONIOENCODING gets that.
    """
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors in ("strict", "surrogateescape"):
        out.reconfigure(errors="replace")


def _forget_no_width() -> None:
    """Some terminals of editors and of containers say that they have 0 columns.

    rich takes that at its word: it prints nothing, also of an error.
    """
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name, "").strip("0") == "":
            os.environ.pop(name, None)


_FULL = "free some space on that disk, then run it again"
_OTHER_PATH = "name another path, or move away what is there"
_NEXT_STEPS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "it is mounted read-only: name another folder",
    errno.ENOENT: "check the path: a part of it is missing, or nothing can be made there",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of this path is a file: name another path, or move the file away",
    errno.EEXIST: _OTHER_PATH,
    errno.ENOTEMPTY: _OTHER_PATH,
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _refused(error: OSError) -> EdgekitError:
    """A full disk, a missing right, a path that leads through a file: the file names suffice."""
    return EdgekitError(
        f"the system refused: {error.strerror or error}",
        ", ".join(str(n) for n in (error.filename, error.filename2) if n is not None),
        _NEXT_STEPS.get(error.errno or 0, "check the rights there, then run it again"),
    )


def main() -> None:
    """Entry point of the console script."""
    _say_what_can_be_said()
    _forget_no_width()
    try:
        application(_verb(sys.argv[1:]))()
    except EdgekitError as error:
        render.complain(f"edgekit: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has ended, as `| head` does: nothing can be printed any more.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        refused = _refused(error)
        render.complain(f"edgekit: {refused}")
        sys.exit(refused.exit_code)

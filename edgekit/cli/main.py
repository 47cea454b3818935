"""The `edgekit` command: verbs parse, call a part and render. Only here an error is an exit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import edgekit
from edgekit.cli import ask, broker, build, bundle, demo, fleet, project, render
from edgekit.errors import EdgekitError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Takes a language model from Hugging Face to an answer on every edge device of a fleet.",
)


def _version(wanted: bool) -> None:
    if wanted:
        render.say(f"edgekit {edgekit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
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


app.command()(build.build)
app.command()(bundle.pack)
app.command()(bundle.inspect)
app.command()(fleet.push)
app.command()(fleet.state)
app.command()(fleet.rollback)
app.command()(fleet.stop)
app.command()(ask.ask)
app.command()(ask.devices)
app.add_typer(broker.app, name="broker")
app.command()(demo.demo)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except EdgekitError as error:
        render.err.print(f"edgekit: {error}", markup=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does; nothing is left to say.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        # A full disk, a missing right, a folder that is none: the files say it all.
        names = ", ".join(str(n) for n in (error.filename, error.filename2) if n is not None)
        refused = EdgekitError(
            f"the system refused: {error.strerror or error}",
            names,
            "check the free space and the rights there, then run it again",
        )
        render.err.print(f"edgekit: {refused}", markup=False)
        sys.exit(refused.exit_code)

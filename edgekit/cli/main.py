"""The `edgekit` command: verbs parse, call a part and render. Errors become exits only here."""

from __future__ import annotations

import sys
from pkgutil import resolve_name
from typing import Annotated

import typer

import edgekit
from edgekit.cli import render
from edgekit.errors import EdgekitError

# A command imports its own verb's module alone: all of them take longer than most verbs run.
_VERBS = {
    "init": "init:init",
    "build": "model.build:build",
    "check": "model.check:check",
    "pack": "release.bundle:pack",
    "inspect": "release.bundle:inspect",
    "sign": "release.sign:sign",
    "verify": "release.sign:verify",
    "key": "release.key:app",
    "export": "release.carry:export",
    "import": "release.carry:import_",
    "enroll": "device.enroll:enroll",
    "remove": "device.enroll:remove",
    "publish": "release.publish:publish",
    "desired": "release.publish:desired",
    "push": "rollout.push:push",
    "fleet": "device.check_fleet:app",
    "state": "device.fleet:state",
    "status": "rollout.show:status",
    "rollouts": "rollout.show:rollouts",
    "pause": "rollout.orders:pause",
    "resume": "rollout.further:resume",
    "abort": "rollout.orders:abort",
    "rollback": "rollout.further:rollback",
    "report": "rollout.report:report",
    "logs": "device.logs:logs",
    "support-bundle": "device.support:support_bundle",
    "stop": "device.fleet:stop",
    "start": "device.fleet:start",
    "prune": "device.disk:prune",
    "scrub": "device.disk:scrub",
    "tune": "device.disk:tune",
    "ask": "talk.ask:ask",
    "chat": "talk.chat.verb:chat",
    "devices": "talk.ask:devices",
    "top": "talk.top.verb:top",
    "rules": "talk.rules:app",
    "forget": "device.forget:forget",
    "broker": "talk.broker:app",
    "gateway": "talk.gateway:app",
    "page": "talk.page:page",
    "doctor": "doctor.doctor:doctor",
    "demo": "demo:demo",
}


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
        help="Takes a language model from Hugging Face to an answer on every edge device of a "
        "fleet.",
    )
    app.callback()(_options)
    for name in (verb,) if verb in _VERBS else _VERBS:
        found = resolve_name(f"edgekit.cli.{_VERBS[name]}")
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def main() -> None:
    """Entry point of the console script."""
    try:
        application(next((word for word in sys.argv[1:] if word[:1] != "-"), ""))()
    except EdgekitError as error:
        render.complain(f"edgekit: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has ended, as `| head` does: nothing can be printed any more.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        # A full disk, a missing right, a path that is no folder: the file names suffice.
        names = ", ".join(str(n) for n in (error.filename, error.filename2) if n is not None)
        refused = EdgekitError(
            f"the system refused: {error.strerror or error}",
            names,
            "check the free space and the rights there, then run it again",
        )
        render.complain(f"edgekit: {refused}")
        sys.exit(refused.exit_code)

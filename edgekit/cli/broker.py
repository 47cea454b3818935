"""`broker run`: the embedded broker in the foreground."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from edgekit.cli import render
from edgekit.client.devbroker import embedded_broker

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The broker in a wheel, for trials."""


@app.command()
def run(
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 1883,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Run an MQTT 5 broker until Ctrl-C. For trials: it asks nobody for a password.

    \b
    Example:  edgekit broker run --port 1883
    """
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with embedded_broker(host, port):
        render.say(f"broker listening on {host}:{port}; Ctrl-C stops it")
        signal.pause()

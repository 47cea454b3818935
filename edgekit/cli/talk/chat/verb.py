"""`chat`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.interrupts import told
from edgekit.cli.options import ProjectOption
from edgekit.cli.talk.ask import BrokerOption, broker_of, given
from edgekit.cli.talk.chat import terminal
from edgekit.cli.talk.chat.chat import Chat, ChatSettings, load
from edgekit.cli.talk.chat.log import ChatLog
from edgekit.cli.talk.chat.partner import partner
from edgekit.cli.talk.watching import DeviceWatch
from edgekit.client import Requester
from edgekit.client.requester import DEFAULT_EXPIRY_SECONDS
from edgekit.errors import EdgekitError


def chat(
    device: Annotated[str, typer.Argument(help="Name of a device, or pool:NAME.")],
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    load_file: Annotated[
        Path | None, typer.Option("--load", help="Go on with what `/save FILE.json` wrote.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed that makes sampling repeatable.")] = None,
    effort: Annotated[
        str | None,
        typer.Option(help="How much a model thinks: none, minimal, low, medium, high, xhigh."),
    ] = None,
    expiry: Annotated[
        int, typer.Option(help="Deadline of each prompt in seconds, 1 to 3600.")
    ] = DEFAULT_EXPIRY_SECONDS,
    history: Annotated[
        bool, typer.Option(help="Keep what is typed for the next time, for your account alone.")
    ] = True,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
) -> None:
    """Have a conversation with a device. Ctrl-C cancels an answer, Ctrl-D ends, /help helps.

    Without a terminal each line of standard input is a message, and the answers go to standard
    output.

    \b
    Example:  edgekit chat pi-1
              edgekit chat pool:kitchen --system "Answer in one sentence."
              printf 'Hello\\nAnd in French?\\n' | edgekit chat pi-1
    """
    here = project.find_or_bare(project_folder, broker=broker)
    begins_with = partner(device)
    log = load(load_file) if load_file else ChatLog()
    if system is not None:
        log = ChatLog(given("--system", system), log.messages)
    choices = {
        "max_completion_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "reasoning_effort": effort,
    }
    interactive = terminal.is_terminal()
    settings = ChatSettings(
        {name: value for name, value in choices.items() if value is not None}, expiry, interactive
    )
    at = broker_of(here, broker)
    with (
        told({signal.SIGTERM: _end, signal.SIGHUP: _end}),
        DeviceWatch(at, here.requester) as watch,
        Requester(at, here.requester) as requester,
    ):
        watch.settle()
        chatting = Chat(requester, watch, begins_with, log, settings)
        chatting.begin()
        if not interactive:
            for text in terminal.piped():
                if not chatting.take(text):
                    break
            return
        texts = terminal.typed(lambda: chatting.partner.to, lambda: chatting.names, keep=history)
        for text in texts:
            try:
                if not chatting.take(text):
                    break
            except EdgekitError as error:
                render.complain(error)
            except KeyboardInterrupt:
                render.complain("interrupted")


def _end() -> None:
    sys.exit(130)

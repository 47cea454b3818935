"""`ask` and `devices`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli import project, render
from edgekit.cli.interrupts import ended_as_by_ctrl_c
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.talk.answering import (
    Unbroken,
    figures,
    next_of,
    schema_format,
    show_rest,
    shrunk,
    unshown,
)
from edgekit.client import Accepted, Delta, Final, Reply, Requester
from edgekit.client import devices as find_devices
from edgekit.client.requester import DEFAULT_EXPIRY_SECONDS
from edgekit.core.config import BrokerConfig
from edgekit.core.digest import short
from edgekit.core.protocol import wire
from edgekit.errors import UsageError

BrokerOption = Annotated[
    str | None, typer.Option("--broker", help="HOST[:PORT]; default: of edgekit.toml.")
]


def broker_of(here: project.Project, text: str | None) -> BrokerConfig:
    broker = project.parse_broker(text, here.broker) if text else here.broker
    render.warn(broker.warning)
    return broker


def ask(
    device: Annotated[str, typer.Argument(help="Name of a device, or pool:NAME.")],
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads standard input.")],
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture that the prompt is about: JPEG, PNG or WebP; repeatable."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k best tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed that makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string, repeatable.")] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="A JSON Schema: the answer is JSON that is valid against it."),
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=20,
            help="Log-probabilities of each token, and of so many that could stand there.",
        ),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(help="How much a model thinks: none, minimal, low, medium, high, xhigh."),
    ] = None,
    expiry: Annotated[
        int, typer.Option(help="Deadline of the prompt in seconds, 1 to 3600.")
    ] = DEFAULT_EXPIRY_SECONDS,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the chat.completion, not the text.")
    ] = False,
) -> None:
    """Prompt a device and stream its answer. Ctrl-C cancels the prompt, as SIGTERM and SIGHUP do.

    \b
    Example:  edgekit ask pi-1 "What is the capital of France?"
              edgekit ask pool:kitchen "What is the capital of France?"
              edgekit ask pi-1 "What is this?" --image photo.jpg
              edgekit ask pi-1 "Is the pump hot? 71 C" --schema verdict.json
              cat report.txt | edgekit ask pi-1 - --system "Summarise in one sentence."
    """
    here = project.find_or_bare(project_folder, broker=broker)
    body = _body(
        _piped() if prompt == "-" else given("the prompt", prompt),
        given("--system", system or ""),
        max_completion_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=[given("--stop", each) for each in stop or ()] or None,
        stream=False if as_json else None,
        response_format=schema_format(schema),
        logprobs=None if logprobs is None else True,
        top_logprobs=logprobs,
        reasoning_effort=effort,
    )
    with (
        ended_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP),
        Requester(broker_of(here, broker), here.requester) as requester,
        closing(
            requester.ask(
                device, body, images=shrunk(requester, device, image), expiry_seconds=expiry
            )
        ) as replies,
    ):
        try:
            shown, final = _show(replies, device)
        except wire.ProtocolError as error:
            error.next_step = next_of(error)
            raise
    if as_json:
        render.print_json(final.completion)
        return
    render.stream(unshown(shown, final) + "\n")
    show_rest(final, body)
    render.err.print(render.harmless(figures(final)), style="dim", markup=False)


def _show(replies: Iterable[Reply], device: str) -> tuple[str, Final]:
    """Print the text as it comes; return what was printed, and the final."""
    shown, thinks = "", False  # thinking goes to standard error
    unbroken = Unbroken()
    final: Final | None = None
    with render.err.status(f"waiting for {device}") as waiting:
        for reply in replies:
            match reply:
                case Accepted(position=position) if position:
                    waiting.update(f"waiting for {device}: {position} prompts come first")
                case Delta(text=piece, reasoning=thought) if unbroken.takes(reply):
                    waiting.stop()
                    if thought:
                        thinks = True
                        render.err.print(
                            render.harmless(thought), end="", style="dim", markup=False
                        )
                    elif thinks and piece:
                        thinks = False
                        render.err.print()
                    shown += piece
                    render.stream(piece)
                case Final():
                    final = reply
    assert final is not None, "without one, `ask` of the requester raises an error"
    return shown, final


def _body(text: str, system: str, **choices: Any) -> dict[str, Any]:
    """The body of a prompt; a choice that is None was not made."""
    if not text.strip():
        raise UsageError("the prompt is empty", next_step="write a prompt, or pipe one to `-`")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    made = {name: value for name, value in choices.items() if value is not None}
    return {"messages": messages, **made}


def given(what: str, text: str) -> str:
    """A text of the command line, which may hold bytes that are no UTF-8.

    Raises:
        UsageError: it does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not UTF-8 text", str(error), "write it in UTF-8") from None
    return text


def _piped() -> str:
    """The prompt on standard input, without the newline at its end or a byte order mark.

    Raises:
        UsageError: it is no text in UTF-8, too long, or standard input is closed.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed", next_step="pipe a prompt to `-`")
    data = sys.stdin.buffer.read(wire.MAX_BODY_BYTES + 1)
    if len(data) > wire.MAX_BODY_BYTES:
        raise UsageError(
            "the prompt on standard input is too long",
            f"a prompt has at most {wire.MAX_BODY_BYTES} bytes",
            "write a shorter one",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            "standard input is not UTF-8 text",
            f"byte 0x{data[error.start]:02x} at {error.start}: {error.reason}",
            "convert it, as with `iconv -f LATIN1 -t UTF-8`",
        ) from None
    if "\0" in text:
        raise UsageError("standard input is not text", "it has a NUL character", "pipe a text")
    return text.removesuffix("\r\n" if text.endswith("\r\n") else "\n")


def devices(
    broker: BrokerOption = None, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """List the devices that the broker knows, from their retained messages.

    \b
    Example:  edgekit devices
    """
    here = project.find_or_bare(project_folder, broker=broker)
    with render.working("asking the broker"):
        found = find_devices(broker_of(here, broker), here.requester)
    if as_json:
        render.print_json(found)
        return
    if not found:
        render.say("no device has announced itself")
    for name, topics in found.items():
        card, status = topics.get("card", {}), topics.get("status", {})
        model = f"{card.get('model', '?')}:{card.get('version', '?')}"
        line = (
            f"{name}  {status.get('state', '?')}  {model}  {short(str(card.get('release', '')))}  "
            f"context {card.get('context_length', '?')}  queue {status.get('queue', 0)}  "
            f"{_speed(status)} tokens/s{'  pictures' if card.get('images') else ''}"
        )
        render.say(render.one_line(line))


def _speed(status: dict[str, Any]) -> str:
    """As its status says; another program may have written that, and a text where a number is."""
    told = status.get("tok_s", 0)
    return f"{told:g}" if isinstance(told, int | float) else str(told)

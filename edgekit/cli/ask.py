"""`ask` and `devices`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.client import Accepted, Delta, Final, Requester
from edgekit.client import devices as find_devices
from edgekit.client.requester import DEFAULT_EXPIRY_SECONDS
from edgekit.core.config import BrokerConfig
from edgekit.core.digest import short
from edgekit.errors import UsageError

BrokerOption = Annotated[
    str | None, typer.Option("--broker", help="HOST[:PORT]; default: of edgekit.toml.")
]


def _broker(here: project.Project, text: str | None) -> BrokerConfig:
    broker = project.parse_broker(text, here.broker) if text else here.broker
    render.warn(broker.warning)
    return broker


def ask(
    device: Annotated[str, typer.Argument(help="Name of a device, or pool:NAME.")],
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads standard input.")],
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k best tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed that makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string, repeatable.")] = None,
    expiry: Annotated[
        int, typer.Option(help="Deadline of the prompt in seconds.")
    ] = DEFAULT_EXPIRY_SECONDS,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the chat.completion, not the text.")
    ] = False,
) -> None:
    """Prompt a device and stream its answer. Ctrl-C cancels the prompt.

    \b
    Example:  edgekit ask pi-1 "What is the capital of France?"
              edgekit ask pool:kitchen "What is the capital of France?"
              cat report.txt | edgekit ask pi-1 - --system "Summarise in one sentence."
    """
    here = project.find(project_folder)
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise UsageError("the prompt is empty", next_step="write a prompt, or pipe one to `-`")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    choices = {
        "max_completion_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop or None,
        "stream": False if as_json else None,
    }
    body: dict[str, Any] = {"messages": messages}
    body |= {key: value for key, value in choices.items() if value is not None}
    shown = ""
    final: Final | None = None
    with (
        Requester(_broker(here, broker), here.requester) as requester,
        render.err.status(f"waiting for {device}") as waiting,
    ):
        for reply in requester.ask(device, body, expiry_seconds=expiry):
            match reply:
                case Accepted(position=position) if position:
                    waiting.update(f"waiting for {device}: {position} prompts come first")
                case Delta(text=piece):
                    waiting.stop()
                    shown += piece
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                case Final():
                    final = reply
    assert final is not None
    if as_json:
        render.print_json(final.completion)
        return
    # The device sends a delta at most once, and one may be lost; the final has the whole text.
    rest = final.text[len(shown) :] if final.text.startswith(shown) else f"\n{final.text}"
    sys.stdout.write(rest + "\n")
    sys.stdout.flush()
    usage, timings = final.completion["usage"], final.completion.get("timings") or {}
    render.err.print(
        f"{usage['completion_tokens']} tokens, {timings.get('predicted_per_second', 0):.0f} "
        f"tokens/s, first after {timings.get('first_token_ms', 0):.0f} ms, "
        f"{final.finish_reason}",
        style="dim",
    )


def devices(
    broker: BrokerOption = None, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """List the devices that the broker knows, from their retained messages.

    \b
    Example:  edgekit devices
    """
    here = project.find(project_folder)
    with render.working("asking the broker"):
        found = find_devices(_broker(here, broker), here.requester)
    if as_json:
        render.print_json(found)
        return
    if not found:
        render.say("no device has announced itself")
    for name, topics in found.items():
        card, status = topics.get("card", {}), topics.get("status", {})
        model = f"{card.get('model', '?')}:{card.get('version', '?')}"
        render.say(
            f"{name}  {status.get('state', '?')}  {model}  {short(card.get('release', ''))}  "
            f"context {card.get('context_length', '?')}  queue {status.get('queue', 0)}  "
            f"{status.get('tok_s', 0):g} tokens/s"
        )

"""`rules test`: runs a rule of fleet.toml on messages from files, and publishes nothing."""

from __future__ import annotations

import signal
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekit.cli import project, render
from edgekit.cli.interrupts import ended_as_by_ctrl_c
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.client import Final, Requester
from edgekit.core.protocol import wire
from edgekit.core.rules.check import body_of
from edgekit.core.rules.filters import ONE, REST, check_topic
from edgekit.core.rules.message import (
    MAX_FILL_BYTES,
    MAX_MESSAGE_BYTES,
    Fill,
    HeardMessage,
    Origin,
    RuleAnswer,
    answer_message,
    unreadable,
)
from edgekit.core.rules.rule import Rule
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.inventory import Fleet
from edgekit.tokens.rule import RuleTemplate

ANY_LEVEL = "test"  # stands for a wildcard where no topic is given

app = typer.Typer(no_args_is_help=True)


class Tested(msgspec.Struct, frozen=True):
    """What a rule made of messages; `answer` is what a device would publish, None if not asked."""

    rule: str
    device: str
    topic: str
    publish: str
    prompt: str
    answer: RuleAnswer | None


@app.callback()
def _group() -> None:
    """Try the rules of fleet.toml, by which devices answer messages without a client.

    \b
    Example:  edgekit rules test door --message open.json
    """


@app.command("test")
def try_rule(
    name: Annotated[str, typer.Argument(help="Name of the rule in fleet.toml.")],
    message: Annotated[
        list[Path],
        typer.Option(help="File with a message's JSON; `-` reads standard input; repeatable."),
    ],
    device: Annotated[
        str, typer.Option(help="Device that has the rule; default: the first one that has it.")
    ] = "",
    topic: Annotated[
        str,
        typer.Option(help="Topic of the messages; default: the filter, with `test` for wildcards."),
    ] = "",
    render_only: Annotated[
        bool, typer.Option("--render", help="Show the prompt alone; ask no device.")
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a rule's prompt of messages, have a device answer it, and show both.

    Nothing is published, and the device needs no push of the rule: it is asked as any client asks.
    Several messages are one window, the oldest first.

    \b
    Example:  edgekit rules test door --message open.json
              edgekit rules test heat --message 1.json --message 2.json --device pi-1 --json
    """
    here = project.find(project_folder)
    device, rule = _find(here.fleet(), name, device)
    topic = _topic(rule, topic)
    fill = Fill(name, device, [HeardMessage(topic, _read(path)) for path in message])
    _check_window(name, rule, fill)
    try:
        prompt = RuleTemplate(rule.prompt).render(fill)
    except EdgekitError as error:
        raise UsageError(
            f"rule {name}: {error.what}", error.why, "a device leaves out such a message"
        ) from None
    if not as_json:
        render.say(f"topic    {topic}")
        render.say(f"prompt   {prompt}")
    answer = None
    if not render_only:
        answer = _ask(here, device, rule, prompt, Origin(name, topic, len(message), 1))
    output = rule.output(device, name)
    if as_json:
        render.print_json(Tested(name, device, topic, output, prompt, answer))
    elif answer is not None:
        render.say(f"answer   {answer.content}")
        render.say(f"{device} would publish it on {output} ({answer.finish_reason})")


def _find(fleet: Fleet, name: str, device: str) -> tuple[str, Rule]:
    """The rule as a device has it, and the device.

    Raises:
        UsageError: there is no such device or rule, or the device has not got it.
    """
    if device:
        fleet.select([device])
    named = {device: fleet.devices[device]} if device in fleet.devices else fleet.devices
    for each, found in named.items():
        if name in found.rules:
            return each, found.rules[name].on(each)
    known = sorted({rule for found in named.values() for rule in found.rules})
    raise UsageError(
        f"{device or 'no device'} has {'no' if device else 'a'} rule {name}",
        f"there are {', '.join(known)}" if known else "fleet.toml has no table [rules.NAME]",
        "write its table in fleet.toml; docs/rules.md says how",
    )


def _topic(rule: Rule, given: str) -> str:
    levels = rule.topic_filter.split("/")
    topic = given or "/".join(ANY_LEVEL if level in (ONE, REST) else level for level in levels)
    try:
        check_topic(topic)
    except ValueError as error:
        raise UsageError(
            "--topic is no topic", str(error), next_step="correct it, or leave --topic out"
        ) from None
    if not rule.hears(topic):
        raise UsageError(
            f"the rule does not hear {topic!r}",
            f"its filter is {rule.topic_filter}",
            next_step="name a topic that the filter matches, or leave --topic out",
        )
    return topic


def _read(path: Path) -> bytes:
    """A message's payload.

    Raises:
        UsageError: the file cannot be read, or a device would leave out such a message.
    """
    try:
        read = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read", str(error), next_step="name a file with a message's JSON"
        ) from None
    if len(read) > MAX_MESSAGE_BYTES:
        text = f"a rule takes messages of at most {MAX_MESSAGE_BYTES}"
        raise UsageError(f"{path} has {len(read)} bytes", text, next_step="name a smaller message")
    if unreadable(read):
        text = "a rule takes messages that are JSON in UTF-8, no key of an object twice"
        raise UsageError(
            f"{path} is no message for a rule", text, next_step="name a file with one JSON text"
        )
    return read


def _check_window(name: str, rule: Rule, fill: Fill) -> None:
    most = rule.window_messages if rule.window_seconds else 1
    if len(fill.messages) > most:
        why = "it has no window_seconds" if most == 1 else f"window_messages is {most}"
        raise UsageError(f"rule {name} takes {most} at a time", why, "name fewer files")
    if sum(one.size for one in fill.messages) > MAX_FILL_BYTES:
        raise UsageError(
            "the messages are too long",
            f"together at most {MAX_FILL_BYTES} bytes",
            next_step="name a smaller message",
        )


def _ask(here: project.Project, device: str, rule: Rule, prompt: str, origin: Origin) -> RuleAnswer:
    """Have the device answer, as a client; it is told to send no piece of the answer."""
    identity = uuid.uuid4().hex
    final: Final | None = None
    render.warn(here.broker.warning)
    with (
        ended_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP),
        Requester(here.broker, here.requester) as requester,
        closing(
            requester.ask(
                device,
                msgspec.json.decode(body_of(rule, prompt)),
                prompt_id=identity,
                expiry_seconds=rule.deadline_seconds,
            )
        ) as replies,
        render.working(f"waiting for {device}"),
    ):
        for reply in replies:
            if isinstance(reply, Final):
                final = reply
    assert final is not None, "without one, `ask` raises an error"
    to = wire.ReplyTo(rule.output(device, origin.rule), b"", identity, device, final_only=True)
    told = answer_message(to, origin, msgspec.json.encode(final.completion), 0)
    return msgspec.json.decode(told.payload, type=RuleAnswer)

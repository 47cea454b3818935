"""`home-assistant`: the devices as Home Assistant's MQTT integration discovers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.device.forget import account_of
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.talk.ask import BrokerOption
from edgekit.client import devices as find_devices
from edgekit.client.discovery import discovery, object_id, publish
from edgekit.core import topics
from edgekit.errors import UsageError


def home_assistant(
    devices: Annotated[
        list[str] | None, typer.Argument(help="Names; default: all that the broker knows.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take them back instead.")] = False,
    prefix: Annotated[
        str, typer.Option(help="Where Home Assistant listens.")
    ] = topics.HOME_ASSISTANT,
    username: Annotated[
        str, typer.Option(help="Account that writes; default: of edgekit.toml.")
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password of --username.")
    ] = None,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show devices in Home Assistant: state, release, queue, tokens per second, heat, memory.

    One retained message for each device says where its status is; nothing changes on the device.
    `edgekit forget` takes it back with the rest, and --remove takes it back alone.

    \b
    Example:  edgekit home-assistant
              edgekit home-assistant pi-1 --remove
    """
    if not prefix or any(each in prefix for each in "+#\0") or prefix.startswith("edgekit/"):
        raise UsageError(f"{prefix!r} is no prefix for topics", "", "leave --prefix out")
    here = project.find_or_bare(project_folder, broker=broker)
    at = project.parse_broker(broker, here.broker) if broker else here.broker
    writer = account_of(at, username, password_file)
    render.warn(at.warning)
    with render.working("asking the broker"):
        known = {name: kept for name, kept in find_devices(at, here.requester).items() if kept}
    names = devices or list(known)
    if unknown := [] if remove else [name for name in names if not known.get(name, {}).get("card")]:
        raise UsageError(
            f"the broker has no card of {', '.join(unknown)}",
            next_step="`edgekit devices` shows the devices that it knows",
        )
    messages = {
        topics.discovery_topic(object_id(name), prefix): b""
        if remove
        else discovery(name, known[name]["card"])
        for name in names
    }
    with render.working("telling Home Assistant"):
        publish(writer, here.requester, messages)
    if as_json:
        render.print_json({"removed" if remove else "shown": names})
        return
    for name in names:
        render.say(f"{'removed' if remove else 'shown  '}  {name}")
    if not names:
        render.say("no device has announced itself")

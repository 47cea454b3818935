"""`home-assistant`: the devices as Home Assistant's MQTT integration discovers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from edgekit.cli import project, render
from edgekit.cli.device.forget import account_of
from edgekit.cli.options import AccountOption, JsonOption, PasswordFileOption, ProjectOption
from edgekit.cli.talk.ask import BrokerOption
from edgekit.client import devices as find_devices
from edgekit.client.announced import retain, retained
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.discovery import device_of, discovery, object_id
from edgekit.errors import UsageError


def home_assistant(
    devices: Annotated[
        list[str] | None, typer.Argument(help="Names; default: all that there are.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take them back instead.")] = False,
    username: AccountOption = "",
    password_file: PasswordFileOption = None,
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
    here = project.find_or_bare(project_folder, broker=broker)
    at = project.parse_broker(broker, here.broker) if broker else here.broker
    writer = account_of(at, username, password_file)
    render.warn(at.warning)
    with render.working("asking the broker"):
        messages = (
            _removed(writer, here.requester, devices)
            if remove
            else _shown(at, here.requester, devices)
        )
    names = [device_of(topic) for topic in messages]
    with render.working("telling Home Assistant"):
        retain(writer, here.requester, messages)
    if as_json:
        render.print_json({"removed" if remove else "shown": names})
        return
    for name in names:
        render.say(f"{'removed' if remove else 'shown  '}  {name}")
    if not names:
        render.say("no device is shown" if remove else "no device has announced itself")


def _shown(broker: BrokerConfig, requester: str, asked: Sequence[str] | None) -> dict[str, bytes]:
    """The discovery messages by topic, of these devices or of all that have announced themselves.

    Raises:
        UsageError: the broker has no card of one.
    """
    known = {name: kept for name, kept in find_devices(broker, requester).items() if kept}
    names = asked or [name for name, told in known.items() if told.get("card")]
    if unknown := [name for name in names if not known.get(name, {}).get("card")]:
        raise UsageError(
            f"the broker has no card of {', '.join(unknown)}",
            next_step="`edgekit devices` shows the devices that it knows",
        )
    return {
        topics.discovery_topic(object_id(name)): _entry(name, known[name]["card"]) for name in names
    }


def _entry(name: str, card: Mapping[str, Any]) -> bytes:
    """The discovery message of a device, whose card may lack what another program left out."""
    model, version = (str(card.get(key) or "?") for key in ("model", "version"))
    return discovery(name, model, version, str(card.get("agent", "")))


def _removed(broker: BrokerConfig, requester: str, asked: Sequence[str] | None) -> dict[str, bytes]:
    """Empty messages by topic, for these devices or for all that are shown.

    Raises:
        UsageError: one is not shown.
    """
    kept = retained(broker, requester, [topics.discovery_topic("+")])
    known = sorted(name for name in map(device_of, kept) if name)
    if unknown := [name for name in asked or () if name not in known]:
        raise UsageError(
            f"the broker shows this account no entry of {', '.join(unknown)} for Home Assistant",
            f"it shows {', '.join(known) or 'none'}",
            "`--remove` without a name takes back all; --username names an account that may read",
        )
    return {topics.discovery_topic(object_id(name)): b"" for name in asked or known}

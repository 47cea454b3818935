"""`support-bundle`: one file for a bug report."""

from __future__ import annotations

import os
import queue
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgekit.cli import project, render
from edgekit.cli.device.fleet import DeviceArgument
from edgekit.cli.device.forget import GONE
from edgekit.cli.options import JsonOption, ProjectOption, check_seconds
from edgekit.cli.rollout.found import read as read_rollout
from edgekit.client.announced import announced, topics_of
from edgekit.core.protocol import topics
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet import drive
from edgekit.fleet.support import blank
from edgekit.fleet.support.bundle import SupportBundle, collect, write
from edgekit.mqtt.threaded import MqttClient

METRICS_SECONDS = 32.0  # a device publishes them every 30 s
LAST_ROLLOUTS = 20


def support_bundle(
    device: DeviceArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; default: named after device.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for its metrics at the broker.")
    ] = METRICS_SECONDS,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one tar.gz about a device for a bug report, and say what is in it.

    No prompt, no answer, no key and no password is in it, no account, and no line of the log that
    edgekit did not write. What cannot be had is named in it, with the reason.

    \b
    Example:  edgekit support-bundle pi-1
              edgekit support-bundle pi-1 -o report.tar.gz --wait 0
    """
    now = time.time()
    check_seconds("--wait", wait)
    here = project.find(project_folder)
    fleet = here.fleet()
    if device not in fleet.devices:
        fleet.select([device])
        raise UsageError(f"{device} is a group", next_step="name one device")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    path = output or Path(f"support-{device}-{stamp}.tar.gz")
    if path.exists():
        raise UsageError(f"{path} exists", "", "name another file with -o")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "it may not be written" if path.parent.is_dir() else "there is no such folder"
        raise UsageError(f"no file can be made in {path.parent}", why, "name another one with -o")
    made = SupportBundle()
    with render.working(f"{device}: connecting") as say:
        try:
            with closing(drive.open_device(fleet, device)) as driver:
                collect(made, driver, lambda step: say(f"{device}: {step}"))
        except EdgekitError as error:
            made.missing["device"] = blank.answer(error.to_dict())
        say(f"{device}: broker")
        made.take("broker.json", lambda: blank.answer(_at_broker(here, made, device, wait)))
        say(f"{device}: rollouts")
        made.take("rollouts.json", lambda: blank.answer(_rollouts(here, device)))
        names = write(made, device, path, now)
    if as_json:
        render.print_json({"file": str(path), "files": names, "missing": made.missing})
        return
    render.say(f"wrote  {path}, {render.size(path.stat().st_size)}")
    render.say(f"files  {', '.join(names)}")
    for name, lack in made.missing.items():
        why = f" ({lack['why']})" if lack["why"] else ""
        render.say(f"lacks  {name}: {lack['what']}{why}")
    render.say("note   it names devices, addresses and requesters: read it before you pass it on")


def _at_broker(
    here: project.Project, made: SupportBundle, device: str, wait: float
) -> dict[str, Any]:
    """Card and status, and the next metrics if the device is connected and they can be read."""
    kept = announced(here.broker, here.requester, topics_of(device)).get(device, {})
    state = str(kept.get("status", {}).get("state", ""))
    if wait and state and state not in GONE:
        try:
            kept["metrics"] = _next(here, topics.metrics_topic(device), wait)
        except EdgekitError as error:
            made.missing["metrics"] = blank.answer(error.to_dict())
    return kept


def _next(here: project.Project, topic: str, seconds: float) -> dict[str, Any]:
    """The next message on a topic; raises EdgekitError where none comes that can be read."""
    got: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    client = MqttClient(
        here.broker,
        f"edgekit-{here.requester}-{uuid.uuid4().hex[:12]}",
        subscriptions=[(topic, 0)],
        on_message=lambda message: got.put(message.payload),
    )
    client.connect()
    try:
        return msgspec.json.decode(got.get(timeout=seconds), type=dict[str, Any])
    except queue.Empty:
        raise EdgekitError("the device published no metrics", f"not in {seconds:g} s") from None
    except UNREADABLE as error:
        raise EdgekitError("the device's metrics cannot be read", str(error)) from error
    finally:
        client.close()


def _rollouts(here: project.Project, device: str) -> list[dict[str, Any]]:
    """The newest rollouts with this device, and how each stands for it."""
    found = []
    for number in sorted(here.rollouts.numbers(), reverse=True)[:LAST_ROLLOUTS]:
        rollout = read_rollout(here, here.rollouts.journal(number))
        told = rollout.told
        own = next((each for each in told.devices if each.name == device), None)
        if own is not None:
            found.append(
                {
                    "rollout": number,
                    "release": rollout.release,
                    "phase": str(told.phase),
                    "reason": told.reason,
                    "device": msgspec.to_builtins(own, enc_hook=str),
                }
            )
    return found

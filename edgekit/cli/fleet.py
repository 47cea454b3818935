"""`push`, `state`, `rollback`, `stop`: the verbs that reach devices over SSH or in a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from edgekit.bundle.layers import bootstrap
from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.core.config import agent_config
from edgekit.core.digest import short
from edgekit.errors import EdgekitError, PartialError, UsageError
from edgekit.fleet import drive, inventory
from edgekit.fleet.drive import DeviceDriver, Pushed

LAST_REFUSALS = 5  # that `state` shows; `--json` has all that the device keeps

DevicesArgument = Annotated[
    list[str] | None, typer.Argument(help="Devices or groups of fleet.toml; default: all.")
]


@contextmanager
def _driver(fleet: inventory.Fleet, name: str) -> Iterator[DeviceDriver]:
    device = fleet.devices[name]
    local = inventory.local_folder(fleet, device) if device.address.startswith("local:") else None
    remote = drive.connect(device)
    try:
        yield DeviceDriver(name, device, remote, drive.default_root(device, local))
    finally:
        remote.close()


def push(
    devices: DevicesArgument = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Bundle to push; default: the newest.")
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stage a bundle on devices and switch them to it; a device that fails goes back by itself.

    \b
    Example:  edgekit push pi-1 pi-2 --bundle smollm2:1
    """
    here = project.find(project_folder)
    fleet = here.fleet()
    names = fleet.select(devices or [])
    if not names:
        raise UsageError(
            "fleet.toml has no devices", next_step="add a table [devices.NAME] with its address"
        )
    pinned = here.store.resolve(bundle)
    done: list[Pushed] = []
    failed: dict[str, EdgekitError] = {}
    warned = ""
    for name in names:
        try:
            broker = fleet.broker_of(name, here.broker)
            if broker.warning != warned:  # mostly it is one broker for all
                render.warn(warned := broker.warning)
            with _driver(fleet, name) as driver, render.transferring(name) as bar:
                done.append(
                    drive.push(
                        driver,
                        pinned,
                        here.store,
                        agent_config(name, broker, fleet.devices[name]),
                        lambda runtime: bootstrap(here.store, pinned.manifest, runtime),
                        lambda event: bar(event.step, event.sent, event.total),
                    )
                )
        except EdgekitError as error:
            if len(names) == 1:
                raise
            failed[name] = error
            render.err.print(f"{name}: {error}", markup=False)
    if as_json:
        errors = {name: error.to_dict() for name, error in failed.items()}
        render.print_json({"release": pinned.digest, "pushed": done, "failed": errors})
    else:
        for result in done:
            render.say(_line(result))
    if failed:
        message = f"{len(failed)} of {len(names)} devices failed: {', '.join(failed)}"
        raise PartialError(message) if done else EdgekitError(message)


def _line(result: Pushed) -> str:
    rate = result.bytes_sent / max(result.transfer_seconds, 1e-9)
    sent = (
        f"{result.blobs_sent} blobs, {render.size(result.bytes_sent)} at {render.size(rate)}/s"
        if result.blobs_sent
        else "no blob sent"
    )
    verb = "pushed " if result.changed else "already"
    line = f"{verb} {result.release.short} on {result.device}: {sent}, {result.seconds:.1f} s"
    if result.silent_seconds is not None:
        line += f"; nobody answered for {result.silent_seconds:.1f} s"
    if result.soak_seconds is not None:
        line += f"; on trial, good after {result.soak_seconds:.0f} s more without a crash"
    return line


def _call(project_folder: Any, device: str, verb: str) -> dict[str, Any]:
    fleet = project.find(project_folder).fleet()
    if device not in fleet.devices:
        fleet.select([device])
        raise UsageError(f"{device} is a group", next_step="name one device")
    with _driver(fleet, device) as driver, render.working(f"{device}: {verb}"):
        if not driver.has_agent():
            raise EdgekitError(f"{device} has no agent yet", next_step=f"`edgekit push {device}`")
        return driver.call(verb, seconds=drive.ACTIVATE_SECONDS)


DeviceArgument = Annotated[str, typer.Argument(help="A device of fleet.toml.")]


def state(
    device: DeviceArgument, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Show what a device runs, and the releases that it holds.

    \b
    Example:  edgekit state pi-1
    """
    answer = _call(project_folder, device, "state")
    if as_json:
        render.print_json(answer)
        return
    render.say(f"current    {answer['current'] or 'nothing'}")
    render.say(f"previous   {answer['previous'] or 'nothing'}")
    render.say(f"answering  {'yes' if answer['answering'] else 'no'}")
    for line in _trial_lines(answer):
        render.say(line)
    if model := answer.get("model"):
        how = "spinning" if model["spinning"] else "not spinning"
        found = "measured here" if model["tuned"] else "as configured"
        length = model.get("context_length")  # an older agent does not report it
        slots = f"{model['slots']} slots" + (f" of {length} tokens" if length else "")
        render.say(f"model      {slots}, {model['threads']} threads {how}, {found}")
    for line in _broker_lines(answer.get("broker")):
        render.say(line)
    for release in answer["releases"]:
        line = f"release    {short(release['digest'])}  {release['name']}:{release['version']}"
        render.say(f"{line}  {release['state']}  {release['reason']}".rstrip())


def _trial_lines(answer: dict[str, Any]) -> list[str]:
    """Say why the release runs and what was refused; an older agent does not report it."""
    lines = []
    if (since := answer.get("since")) is not None:
        lines.append(f"since      {_time(since)}")
    if why := answer.get("why"):
        lines.append(f"why        {why}")
    trial = answer.get("trial") or {}
    if (left := trial.get("soak_seconds")) is not None:
        lines.append(f"soak       {left:g} s more without a crash, then it is good")
    if unproven := answer.get("unproven"):
        lines.append(
            f"unproven   {short(unproven['digest'])} since {_time(unproven['since'])}, "
            f"{unproven['tries']} times; tried again {unproven['again_after_seconds']:g} s after "
            "each: start the broker, or correct its address and push again"
        )
    lines += [
        f"refused    {_time(each['at'])}  {short(each['digest'])}  {each['what']}: {each['why']}"
        for each in (answer.get("refusals") or [])[:LAST_REFUSALS]
    ]
    return lines


def _time(seconds: float) -> str:
    """Local time, by the device's clock."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _broker_lines(broker: dict[str, Any] | None) -> list[str]:
    """Say how a device stands with its broker; an older agent does not report it."""
    if not broker:
        return []
    trouble = broker["trouble"]
    how = "connected" if broker["connected"] else "not connected"
    lines = [f"broker     {broker['broker']}, {how}" + (f": {trouble}" if trouble else "")]
    lines += [f"unserved   {each}" for each in broker["unserved"]]
    lines += [
        f"refused    {each['topic']}: {each['reason']} (0x{each['code']:02X})"
        for each in broker["refused"]
    ]
    return lines


def rollback(device: DeviceArgument, project_folder: ProjectOption = None) -> None:
    """Switch a device back to the release that it ran before.

    \b
    Example:  edgekit rollback pi-1
    """
    answer = _call(project_folder, device, "rollback")
    render.say(f"{device} runs {answer['release']}")


def stop(device: DeviceArgument, project_folder: ProjectOption = None) -> None:
    """Drain and stop the agent of a device; `push` starts it again.

    \b
    Example:  edgekit stop demo
    """
    _call(project_folder, device, "stop")
    render.say(f"{device} is stopped")

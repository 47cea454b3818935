"""`state`, `stop`, `start`: verbs of one device's agent, over SSH or in a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.core.digest import short
from edgekit.core.lease import LeaseWish, as_word
from edgekit.core.quality import QualityReport, in_words
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet import drive
from edgekit.fleet.enroll.values import starts_words
from edgekit.fleet.places import refuse_named

CHANGING = ("rollback",)  # what the device runs: they need its lease
LAST_REFUSALS = 5  # that `state` shows; `--json` has all that the device keeps


def call(
    project_folder: Any,
    device: str,
    verb: str,
    *arguments: str,
    seconds: float | None = None,
    take_over: bool = False,
) -> dict[str, Any]:
    """Run a verb of one device's agent, with its arguments, within `seconds`.

    Raises:
        LeaseHeldError: another operator holds the device, and the verb changes what it runs.
        UsageError: it is no device, or its address leads to another one, which would be changed.
    """
    here = project.find(project_folder)
    fleet = here.fleet()
    if device not in fleet.devices:
        fleet.select([device])
        raise UsageError(f"{device} is a group", next_step="name one device")
    with closing(drive.open_device(fleet, device)) as driver, render.working(f"{device}: {verb}"):
        if not driver.has_agent():
            raise EdgekitError(f"{device} has no agent yet", next_step=f"`edgekit push {device}`")
        if verb != "state":
            refuse_named(device, driver.facts)
        if verb in CHANGING:
            if not take_over:
                here.rollouts.check_free(device)
            own, by = here.rollouts.identity(), as_word(project.operator())
            driver.take_lease(LeaseWish(own, by, verb, take_over=take_over))
        facts = driver.facts
        how = {"supervisor": facts.supervisor or "detached", "enrolled": facts.enrolled}
        answer = driver.call(verb, *arguments, seconds=seconds or drive.ACTIVATE_SECONDS)
        return how | answer if verb == "state" else answer


DeviceArgument = Annotated[str, typer.Argument(help="A device of fleet.toml.")]


def state(
    device: DeviceArgument, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Show what a device runs, and the releases that it holds.

    \b
    Example:  edgekit state pi-1
    """
    answer = call(project_folder, device, "state")
    if as_json:
        render.print_json(answer)
        return
    try:
        lines = list(_state_lines(answer, device))
    except (LookupError, TypeError, *UNREADABLE, AttributeError, ArithmeticError, OSError) as error:
        raise EdgekitError(
            f"the answer of {device} cannot be shown",
            f"{type(error).__name__}: {error}",
            f"`edgekit state {device} --json` prints it as it came",
        ) from error
    for line in lines:
        render.say(line)


def _state_lines(answer: dict[str, Any], device: str) -> Iterator[str]:
    yield f"current    {answer['current'] or 'nothing'}"
    yield f"previous   {answer['previous'] or 'nothing'}"
    yield f"answering  {'yes' if answer['answering'] else 'no'}"
    yield f"starts     {starts_words(answer['supervisor'])}"
    if since := answer.get("stopped_since"):  # an older agent does not report it
        at = datetime.fromtimestamp(since).astimezone().isoformat(" ", "seconds")
        yield f"stopped    by an operator since {at}; `edgekit start {device}` starts it"
    yield from _lease_lines(answer.get("lease"))
    yield from _rollout_lines(answer.get("rollouts"))
    yield from _trial_lines(answer)
    if model := answer.get("model"):
        how = "spinning" if model["spinning"] else "not spinning"
        found = "measured here" if model["tuned"] else "as configured"
        length = model.get("context_length")  # an older agent does not report it
        slots = f"{model['slots']} slots" + (f" of {length} tokens" if length else "")
        yield f"model      {slots}, {model['threads']} threads {how}, {found}"
    if quality := answer.get("quality"):
        yield f"quality    {in_words(msgspec.convert(quality, QualityReport))}"
    yield from _broker_lines(answer.get("broker"))
    yield from _trust_lines(answer.get("trust"))
    yield from _door_lines(answer.get("door"))
    for release in answer["releases"]:
        line = f"release    {short(release['digest'])}  {release['name']}:{release['version']}"
        gone = "" if release.get("held", True) else "collected, "  # an older agent keeps all
        yield f"{line}  {gone}{release['state']}  {release['reason']}".rstrip()
    yield from _scrub_lines(answer.get("scrub"))


def _scrub_lines(scrub: dict[str, Any] | None) -> list[str]:
    """Say when the disk was scrubbed and what was found; an older agent does not report it."""
    if not scrub:
        return []
    at = scrub["finished"] or scrub["started"]
    how = "done" if scrub["finished"] and not scrub["position"] else "under way since"
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    lines = [f"scrub      {how} {day}, {scrub['checked']} blobs and trees"]
    found = [each for each in scrub["found"] if each["at"] >= scrub["started"]]
    return lines + [
        f"damaged    {each['kind']} {short(each['digest'])}: {each['what']}; {each['done']}"
        for each in found
    ]


def _rollout_lines(rollouts: list[dict[str, Any]] | None) -> list[str]:
    """Say which rollout offered a release last; an older agent does not report it."""
    if not rollouts:
        return []
    last = rollouts[0]
    when = f"{last['rollout']} by {last['operator']}, {_time(last['at'])}"
    return [f"rollout    {when}; head of its journal {last['head'][:12]}"]


def _lease_lines(lease: dict[str, Any] | None) -> list[str]:
    """Say who holds the device; an older agent does not report it. By the controller's clock."""
    if not lease:
        return []
    since, until = time.time() - lease["age_seconds"], time.time() + lease["left_seconds"]
    line = f"held       by {lease['holder']} ({lease['about']}) since {_time(since)}"
    return [f"{line}, until {_time(until)} at most"]


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
    if desired := broker.get("desired"):  # an older agent does not report it
        lines.append(f"desired    {desired}: the device keeps what it runs")
    lines += [
        f"refused    {each['topic']}: {each['reason']} (0x{each['code']:02X})"
        for each in broker["refused"]
    ]
    return lines


def _door_lines(door: dict[str, Any] | None) -> list[str]:
    """Say who else is at the door of a device; only a device with a door has one."""
    if not door or door["sessions"] < 2:  # the one that asks
        return []
    since, key = _time(door["oldest_since"]), "/etc/edgekit/push/.ssh/authorized_keys"
    line = f"door       {door['sessions']} sessions of edgekit-push, the oldest since {since}"
    return [f"{line}; if they are not yours, take the key out of {key} there"]


def _trust_lines(trust: dict[str, Any] | None) -> list[str]:
    """Say which root of trust a device has; an older agent does not report it."""
    if not trust:
        return []
    lines = []
    if trust["root"] is not None:
        how = "put there by enroll" if trust["how"] == "enrolled" else "from the first push"
        lines.append(
            f"trust      root {trust['root']}, {how}; newest good counter {trust['counter']}; an "
            f"SSH key is {trust['ssh_key']}"
        )
    return lines + [f"trust      {warning}" for warning in trust["warnings"]]


def stop(
    device: DeviceArgument, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Drain and stop the agent of a device; it stays down, also after a reboot.

    `start`, `push` and `rollback` start it again.

    \b
    Example:  edgekit stop demo
    """
    answer = call(project_folder, device, "stop")
    if as_json:
        render.print_json(answer)
        return
    render.say(f"{device} is stopped")


def start(
    device: DeviceArgument, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Start the agent of a device that was stopped.

    \b
    Example:  edgekit start demo
    """
    answer = call(project_folder, device, "start")
    if as_json:
        render.print_json(answer)
        return
    how = "starts" if answer["started"] else "runs already:"
    render.say(f"{device} {how} {short(answer['release'])}")

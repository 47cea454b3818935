"""`status` and `rollouts`: what a rollout does, and which ones there were."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.rollout.found import NumberArgument, find, read
from edgekit.cli.rollout.lines import SHOWN, clock, status_lines
from edgekit.cli.rollout.watch import watch as watch_rollout
from edgekit.core.digest import short
from edgekit.errors import EdgekitError, VerificationError

_LISTED = (
    *("number", "release", "name", "phase", "reason", "started", "by", "holder", "counts"),
    "head",
)


def status(
    number: NumberArgument = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until it is over; Ctrl-C only ends this.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every device of a long table.")
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a rollout does: its phase, its wave, who runs it, and each device.

    `edgekit state DEVICE` asks one device what it runs. `status` reads the rollout's journal and
    connects to nothing. With --watch the exit code is that of a push: 3 where it is paused or
    stopped. Without a terminal there is a line for each change, with --json an object.

    \b
    Example:  edgekit status
              edgekit status 3 --watch
    """
    found = find(project_folder, number)
    if watch:
        watch_rollout(found, as_json=as_json, everything=everything)
    elif as_json:
        render.print_json(found.as_json())
    else:
        for line in status_lines(found.told, found.release, None if everything else SHOWN):
            render.out.print(line)


def rollouts(project_folder: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List the rollouts of this project, the newest last.

    The head is the hash over the whole history of a rollout.

    \b
    Example:  edgekit rollouts
    """
    here = project.find(project_folder)
    book = here.rollouts
    listed: list[dict[str, Any]] = []
    damaged: list[VerificationError] = []
    for number in book.numbers():
        try:
            found = read(here, book.journal(number))
        except VerificationError as error:
            damaged.append(error)
            listed.append({"number": number, "damaged": error.to_dict()})
            continue
        except EdgekitError as error:  # it was ended before its plan, or is of a later edgekit
            listed.append({"number": number, "unread": error.to_dict()})
            continue
        told = found.told
        names = (
            "number",
            "release",
            "phase",
            "reason",
            "started",
            "by",
            "holder",
            "counts",
            "head",
        )
        listed.append({name: getattr(told, name) for name in names} | {"name": found.release})
    if as_json:
        render.print_json({"rollouts": listed})
    elif not listed:
        render.say("there is no rollout yet; `edgekit push` begins one")
    for each in () if as_json else listed:
        render.say(_line(each))
    if damaged:
        raise (
            damaged[0]
            if len(damaged) == 1
            else VerificationError(
                f"the journals of {len(damaged)} rollouts are damaged",
                "; ".join(error.what for error in damaged),
                damaged[0].next_step,
            )
        )


def _line(each: dict[str, Any]) -> str:
    if error := each.get("damaged") or each.get("unread"):
        how = "damaged" if "damaged" in each else "unread"
        return f"{each['number']:>4}  {how:<10}  {error['what']}"
    counts = ", ".join(f"{count} {state}" for state, count in each["counts"].items())
    started = clock(each["started"]) if each["started"] else "not started"
    release = each["name"] or short(each["release"])
    head = each["head"][:12]
    return f"{each['number']:>4}  {each['phase']:<10}  {started}  {release}  {counts}  head {head}"

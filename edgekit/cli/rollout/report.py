"""`report`: a rollout as one HTML page."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import render
from edgekit.cli.options import JsonOption, ProjectOption, replaceable
from edgekit.cli.rollout.found import NumberArgument, find
from edgekit.errors import UsageError, VerificationError
from edgekit.fleet.rollout.book import holder
from edgekit.fleet.rollout.report.page import PAGE_BEGINS, page
from edgekit.store import publish

_HEAD = re.compile(r"[0-9a-f]{12,64}")


def report(
    number: NumberArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; default: rollout-N.html.")
    ] = None,
    contains: Annotated[
        str | None,
        typer.Option(metavar="HEAD", help="Refuse unless this earlier head is in the history."),
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a rollout as one HTML page: a picture over time, each device, each event, the audit.

    The page needs no network and no script. It is written only if every row of the journal is as
    it was written, and has the head: the hash over the whole history. --contains takes the head of
    an earlier report: a history that was cut off or written anew does not have it.

    \b
    Example:  edgekit report 3 -o rollout-3.html
    """
    if contains is not None and not _HEAD.fullmatch(contains):
        raise UsageError(
            f"--contains: {contains!r} is no head",
            "a head is 64 hexadecimal digits, or the first 12 or more of them",
            "`edgekit rollouts` shows all heads",
        )
    found = find(project_folder, number)
    if contains is not None and not any(h.startswith(contains) for h in found.journal.heads()):
        raise VerificationError(
            f"the journal of rollout {found.number} does not contain the head {contains}",
            "it was cut off or written anew since, or the head is another rollout's",
            "`edgekit rollouts` shows all heads; keep the journal for whoever looks into it",
        )
    path = output or Path(f"rollout-{found.number}.html")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder", next_step="make it, or name another file")
    place = replaceable(path, PAGE_BEGINS, "report")
    told = found.told
    with render.working("drawing"):
        text = page(
            found.number,
            found.plan,
            found.rows,
            head=told.head,
            now=time.time(),
            zone=datetime.now().astimezone().tzinfo or UTC,
            holder=holder(found.journal),
            release=found.release,
        )
    publish(place, text.encode())
    if as_json:
        render.print_json({"report": str(path), "rollout": found.as_json(), "events": found.rows})
    else:
        render.say(f"{path}  {render.size(len(text.encode()))}, {len(found.rows)} events verified")
        render.say(f"head  {told.head}")

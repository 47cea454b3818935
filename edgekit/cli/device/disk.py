"""`prune`, `scrub`, `tune`: what a device keeps on its disk."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgekit.cli import render
from edgekit.cli.device.fleet import DeviceArgument, call
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.core.digest import short
from edgekit.errors import PartialError, UsageError, VerificationError

SCRUB_SECONDS = 6 * 3600.0  # a large model on a slow card, at the scrub's own rate


def prune(
    device: DeviceArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="Give up the release to go back to, too.")
    ] = False,
    pin: Annotated[
        str | None, typer.Option("--pin", help="Keep this release from now on; remove nothing.")
    ] = None,
    unpin: Annotated[str | None, typer.Option("--unpin", help="Let a pinned release go.")] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the releases and leftovers that a device does not need.

    \b
    Example:  edgekit prune pi-1 --dry-run
    """
    flags = [f"--{name}" for name, given in (("pin", pin), ("unpin", unpin)) if given]
    if len(flags) > 1 or (flags and (dry_run or previous)):
        raise UsageError(f"{flags[0]} stands alone", next_step="run the two one after the other")
    arguments = [name for name, given in _switches(dry_run, previous) if given]
    for flag, digest in (("--pin", pin), ("--unpin", unpin)):
        arguments += [flag, digest] if digest else []
    answer = call(project_folder, device, "gc", *arguments)
    if as_json:
        render.print_json(answer)
    elif flags:
        done, digest = next(iter(answer.items()))
        render.say(f"{device}: {done} {short(digest)}")
    else:
        _say_collected(device, answer, "would free" if dry_run else "freed")
    if answer.get("failed"):
        raise PartialError(
            f"{len(answer['failed'])} things on {device} cannot be removed",
            "; ".join(f"{path}: {why}" for path, why in answer["failed"].items()),
            "check the rights there, then run it again",
        )


def _switches(dry_run: bool, previous: bool) -> list[tuple[str, bool]]:
    return [("--dry-run", dry_run), ("--previous", previous)]


def _say_collected(device: str, answer: dict[str, Any], verb: str) -> None:
    for each in answer["removed"]:
        render.say(f"{each['kind']:<10} {render.size(each['bytes']):>9}  {each['path']}")
    for each in answer["kept"]:
        render.say(f"{'kept':<10} {each['why']:>9}  {short(each['release'])}")
    render.say(f"{device}: {verb} {render.size(answer['freed_bytes'])}")


def scrub(
    device: DeviceArgument,
    rate: Annotated[
        int | None, typer.Option("--rate", min=0, help="Bytes per second; 0 has no limit.")
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash what a device keeps, at low priority; what is damaged is repaired or fetched again.

    \b
    Example:  edgekit scrub pi-1
    """
    answer = call(
        project_folder,
        device,
        "scrub",
        *([] if rate is None else ["--rate", str(rate)]),
        seconds=SCRUB_SECONDS,
    )
    if as_json:
        render.print_json(answer)
    else:
        for each in answer["found"]:
            render.say(f"damaged    {each['kind']} {short(each['digest'])}: {each['what']}")
            render.say(f"           {each['done']}")
        size = render.size(answer["checked_bytes"])
        render.say(f"{device}: {answer['checked']} blobs and trees checked, {size}")
    if unmended := [each for each in answer["found"] if not each["mended"]]:
        raise VerificationError(
            f"{len(unmended)} blobs of {device} are damaged and have to be fetched again",
            "the release that runs was not stopped",
            f"`edgekit push {device}`",
        )


def tune(
    device: DeviceArgument, project_folder: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Let a device measure its threads again: its agent ends its prompts and starts anew.

    \b
    Example:  edgekit tune pi-1
    """
    answer = call(project_folder, device, "tune")
    if as_json:
        render.print_json(answer)
        return
    when = "now" if answer["restarted"] else "when its agent starts next"
    render.say(f"{device} measures its threads {when}; results forgotten: {answer['forgotten']}")

"""`fleet check`: connects to devices at once and shows what they are, and what runs there."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.options import DevicesArgument, JsonOption, ProjectOption, check_seconds
from edgekit.errors import EdgekitError, PartialError, UsageError
from edgekit.fleet.check import CheckedDevice, RunningRelease, look
from edgekit.fleet.survey import DEADLINE_SECONDS, PARALLEL, survey

ParallelOption = Annotated[
    int, typer.Option("--parallel", min=1, max=500, help="Devices that are asked at one time.")
]
LEAST_SECONDS = 1.0
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=LEAST_SECONDS, help="Seconds that one device may take.")
]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def fleet() -> None:
    """Look at many devices at once.

    \b
    Example:  edgekit fleet check
    """


@app.command()
def check(
    devices: DevicesArgument = None,
    parallel: ParallelOption = PARALLEL,
    timeout: TimeoutOption = DEADLINE_SECONDS,
    wide: Annotated[
        bool, typer.Option("--wide", help="Show system, CPU flags, versions and addresses, too.")
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Connect to devices at once; show hardware, disk, clock, what runs and how it starts.

    Changes nothing. Exit code 0: every device is well; 3: some are; 1: none is.

    \b
    Example:  edgekit fleet check 'pi-*' --parallel 50
    """
    check_seconds("--timeout", timeout, LEAST_SECONDS)
    chosen = project.find(project_folder).fleet()
    names = chosen.select(devices or [])
    if not names:
        raise UsageError(
            "fleet.toml has no devices", next_step="add a table [devices.NAME] with its address"
        )
    with render.counting("devices") as bar:
        found = survey(
            chosen,
            names,
            lambda driver: look(driver, chosen.devices[driver.name].address),
            bar,
            parallel,
            timeout,
        )
    reached = [each for each in found.values() if isinstance(each, CheckedDevice)]
    lost = {name: each for name, each in found.items() if isinstance(each, EdgekitError)}
    if as_json:
        render.print_json({"devices": [_told(name, each) for name, each in found.items()]})
    else:
        _show(reached, lost, wide)
    well = [each for each in reached if not each.trouble]
    if len(well) < len(names):
        trouble = [each.device for each in reached if each.trouble]
        parts = [f"{len(lost)} not reached ({', '.join(lost)})"] if lost else []
        parts += [f"{len(trouble)} with trouble ({', '.join(trouble)})"] if trouble else []
        message = f"{len(well)} of {len(names)} devices are well; {', '.join(parts)}"
        raise PartialError(message) if well else EdgekitError(message)


def _told(name: str, found: CheckedDevice | EdgekitError) -> dict[str, object]:
    """One device as `--json` prints it."""
    if isinstance(found, EdgekitError):
        return {"device": name, "reached": False, "error": found.to_dict()}
    told: dict[str, object] = render.builtins(found)
    return {"reached": True} | told


def _show(reached: list[CheckedDevice], lost: dict[str, EdgekitError], wide: bool) -> None:
    heads = ["device", "runs", "state", "starts", "hardware", "free of disk", "clock", "°C"]
    more = ["system", "flags", "RAM", "glibc", "Python", "digest", "root", "address"]
    rows = [
        [
            each.device,
            each.release.reference if each.release else "nothing",
            _state(each.release),
            ("" if each.enrolled else "not enrolled, ") + each.supervisor,
            each.hardware_class.removeprefix("linux/"),
            _disk(each),
            _clock(each),
            "" if each.temperature is None else f"{each.temperature:.0f}",
        ]
        + (_more(each) if wide else [])
        for each in reached
    ]
    if rows:
        render.table(heads + (more if wide else []), rows, wide)
    for each in reached:
        for line in each.trouble:
            render.complain(f"{each.device}: {line}")
    for name, error in lost.items():
        render.complain(f"{name}: {error}")


def _more(each: CheckedDevice) -> list[str]:
    digest = each.release.digest.short if each.release else ""
    return [
        *(each.system, " ".join(each.isa), render.size(each.ram_bytes), each.glibc, each.python),
        *(digest, each.root, each.address),
    ]


def _state(release: RunningRelease | None) -> str:
    if release is None:
        return ""
    state = "unproven" if release.unproven else release.state
    answers = {True: "answers", False: "silent", None: ""}[release.answering]
    return ", ".join(word for word in (state, "stopped" if release.stopped else answers) if word)


def _disk(each: CheckedDevice) -> str:
    if each.free_bytes is None:
        return ""
    of = f" of {each.disk_bytes / 1e9:.0f} GB" if each.disk_bytes else " GB"
    return f"{each.free_bytes / 1e9:.1f}{of}"


def _clock(each: CheckedDevice) -> str:
    """The offset of a clock, as fine as it was measured."""
    if each.clock_offset_seconds is None or each.clock_error_seconds is None:
        return ""
    if abs(each.clock_offset_seconds) <= each.clock_error_seconds:
        return "ok"
    return f"{each.clock_offset_seconds:+.1f} s"

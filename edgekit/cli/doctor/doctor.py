"""`doctor`: runs every check at once, each in bounded time, and says what mends what is wrong."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgekit.cli import project, render
from edgekit.cli.doctor import probes
from edgekit.cli.doctor.broker import broker
from edgekit.cli.doctor.diagnosis import Diagnosis, of_error
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.errors import EdgekitError
from edgekit.fleet.inventory import Fleet

CHECK_SECONDS = 20.0
MARKS = {"ok": "ok", "note": "note", "warning": "WARNING", "wrong": "WRONG"}
Check = Callable[[], list[Diagnosis]]


def doctor(project_folder: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Check this machine and its project, and say what mends what is wrong. Changes nothing.

    Looks at Python, the container engine, the project's files, keys and metadata, the broker with
    its credentials and rights, ports, clocks, disk, ssh, optional packages, and the first devices.
    Each check ends within 20 seconds. Exit code 0: nothing is wrong; 1: something is.

    \b
    Example:  edgekit doctor
              edgekit doctor --json
    """
    found = run(checks(project_folder))
    wrong = [each for each in found if each.verdict == "wrong"]
    if as_json:
        render.print_json({"diagnoses": found, "wrong": len(wrong)})
    else:
        for each in found:
            _show(each)
    if wrong:
        names = ", ".join(dict.fromkeys(each.check for each in wrong))
        raise EdgekitError(f"{len(wrong)} of {len(found)} diagnoses are wrong ({names})")


def checks(folder: Path | None) -> dict[str, Check]:
    """The checks by name; those of a project only where one can be read."""
    made: dict[str, Check] = {
        "python": probes.python,
        "engine": probes.engine,
        "clock": probes.clock,
        "gateway": probes.gateway_port,
    }
    try:
        here = project.find(folder)
    except EdgekitError as error:
        where = folder or Path.cwd()
        return made | {
            "project": partial(_said, of_error("project", error)),
            "disk": partial(probes.disk, where),
            "extras": partial(probes.extras, None),
        }
    made |= {
        "disk": partial(probes.disk, here.folder),
        "extras": partial(probes.extras, here.folder),
        "keys": partial(probes.keys, here.folder),
        "broker": partial(broker, here),
    }
    try:
        fleet = here.fleet()
    except EdgekitError as error:
        return made | {"project": partial(_said, of_error("project", error))}
    return made | {
        "project": partial(_said, _readable(here, fleet)),
        "ssh": partial(probes.ssh, fleet),
        "devices": partial(probes.devices, fleet),
    }


def _readable(here: project.Project, fleet: Fleet) -> Diagnosis:
    if not fleet.devices:
        step = 'add [devices.NAME] with address = "ssh:USER@HOST"'
        return Diagnosis(
            "project", "warning", f"{here.folder / 'fleet.toml'} has no device", "", step
        )
    count = len(fleet.devices)
    return Diagnosis("project", "ok", f"{here.folder}, {count} device{'s' if count > 1 else ''}")


def _said(diagnosis: Diagnosis) -> list[Diagnosis]:
    return [diagnosis]


def run(made: dict[str, Check], seconds: float = CHECK_SECONDS) -> list[Diagnosis]:
    """Run checks at once; one that does not end in time is a diagnosis itself.

    Returns:
        The diagnoses in the order of `made`.
    """
    results: queue.SimpleQueue[tuple[str, list[Diagnosis]]] = queue.SimpleQueue()

    def one(name: str, check: Check) -> None:
        try:
            found = check()
        except EdgekitError as error:
            found = [of_error(name, error)]
        except Exception as error:  # a defect of one check must not hide what the others found
            why = f"{type(error).__name__}: {error}"
            found = [Diagnosis(name, "wrong", "this check itself failed", why)]
        results.put((name, found))

    for name, check in made.items():
        threading.Thread(target=one, args=(name, check), name=name, daemon=True).start()
    done: dict[str, list[Diagnosis]] = {}
    deadline = time.monotonic() + seconds
    with render.working("checking") as say:
        while len(done) < len(made):
            say("checking " + ", ".join(name for name in made if name not in done))
            try:
                name, found = results.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                break
            done[name] = found
    late = f"it did not end within {seconds:g} s"
    return [
        diagnosis
        for name in made
        for diagnosis in done.get(
            name, [Diagnosis(name, "wrong", "this check has no answer", late)]
        )
    ]


def _show(each: Diagnosis) -> None:
    render.say(f"{MARKS[each.verdict]:<8} {each.check:<8} {each.what}")
    if each.verdict != "ok":
        for word, text in (("why", each.why), ("next", each.next)):
            if text:
                render.say(f"{'':<18}{word + ':':<6}{text}")

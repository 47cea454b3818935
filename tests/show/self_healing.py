"""Bad releases that a device rolls back alone: the controller is killed once each has begun.

A good release answers. For each way of being bad a push brings another release, and is killed with
everything that it started as soon as `current` names the new one. Then the device is alone: the old
release has to answer again. The releases are bad only when they run: staging finds nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.broker.embedded import embedded_broker
from edgekit.builder.tools.host import HostToolchain
from edgekit.bundle.golden import SOAK_SECONDS
from edgekit.bundle.layout import Layout
from edgekit.client import Final, Requester
from edgekit.core.digest import Digest
from tests import tools
from tests.building import run_script, silent
from tests.conftest import Project
from tests.faults.bad_release import (
    CRASHING,
    GREEDY,
    SLOW,
    UNCONNECTED,
    Change,
    make_bad,
    with_agent,
    with_weights,
)
from tests.show import Figures
from tests.show.planted import built_smollm2

TRIAL_SECONDS = 60.0  # of the device: also the time for a release that never connects
FLOOR = 4.0  # tokens/s; the slow release makes at most 3.3
HEALED_SECONDS = 240.0  # for any of them, on a machine that others use too
PROMPT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


@dataclass(frozen=True)
class Healed:
    """What became of one bad release."""

    name: str
    back: bool  # the old release is current, good and answers a prompt
    seconds: float  # from the end of the controller until that
    reason: str  # why the device says that it went back


def changes(work: Path) -> dict[str, tuple[Change, str]]:
    """Name -> what makes a release bad, and a word of the reason that the device must give."""

    def zeroed(folder: Path) -> None:
        python = HostToolchain().ready(silent).python
        run_script(python, "faults/plant.py", "layer_zeroed", folder)

    return {
        "rubbish": (with_weights(zeroed, work), "golden prompts"),
        "memory": (with_agent(GREEDY), "memory"),
        "slow": (with_agent(SLOW), "tokens/s"),
        "crash": (with_agent(CRASHING), "soak"),
        "unconnected": (with_agent(UNCONNECTED), "connection"),
    }


def count(only: Iterable[str] = ()) -> tuple[Figures, bool]:
    """The figures, and whether the device healed itself from all of them."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        healed = heal(Path(folder), built_smollm2(), tuple(only))
    figures: Figures = {
        "cases": len(healed),
        "rolled_back_and_answering": sum(one.back for one in healed),
        "by_reason": sum(bool(one.reason) for one in healed),
        **{f"{one.name}_seconds": round(one.seconds, 1) for one in healed},
        "seconds": round(time.monotonic() - started),
    }
    return figures, all(one.back and one.reason for one in healed)


def heal(
    work: Path, model: Path, only: tuple[str, ...] = (), soak: float = SOAK_SECONDS
) -> list[Healed]:
    """Let a device meet the bad releases, one after the other.

    Args:
        work: an empty folder.
        model: a model folder.
        only: the names to take; empty takes all.
        soak: seconds of each release's soak.
    """
    port = tools.free_port()
    with embedded_broker("127.0.0.1", port):
        project = Project(work / "project", port)
        project.folder.mkdir()
        project.edgekit("init", ".", "--port", str(port))
        with (project.folder / "fleet.toml").open("a", encoding="utf-8") as fleet:
            fleet.write(f"threads = 2\ntrial_seconds = {TRIAL_SECONDS}\n")
            fleet.write(f"min_tokens_per_second = {FLOOR}\n")
        project.edgekit(
            "pack", str(model), "--name", "good", "--context", "512", "--soak", str(soak)
        )
        project.edgekit("push", "demo", "--bundle", "good:1")
        try:
            good = Layout(project.store).resolve("good:1").digest
            _wait(lambda: release(project, good)["state"] == "good", "the good release is good")
            return [
                _one(project, name, *change)
                for name, change in changes(work).items()
                if not only or name in only
            ]
        finally:
            project.run("stop", "demo")


def _one(project: Project, name: str, change: Change, word: str) -> Healed:
    store = Layout(project.store)
    good = store.resolve("good:1").digest
    bad = make_bad(store, "good:1", f"{name}:1", change)
    if find_spec("edgekit.cli.release.sign"):  # a device takes no unsigned release
        project.edgekit("sign", f"{name}:1")
    _push_and_die(project, f"{name}:1", bad)
    killed = time.monotonic()

    def back() -> bool:
        """Only files are read, so nothing is done on the device."""
        return _current(project) == good.hex and (project.root() / "run/ready.json").exists()

    with suppress(TimeoutError):
        _wait(back, f"{name} is rolled back")
    healed = back() and answers(project)
    seconds = time.monotonic() - killed
    states = release(project, good)["state"], release(project, bad)["state"]
    reason = str(release(project, bad)["reason"])
    return Healed(
        name, healed and states == ("good", "bad"), seconds, reason if word in reason else ""
    )


def _push_and_die(project: Project, bundle: str, digest: Digest) -> None:
    """Push a bundle; kill the push and all that it started once the device has begun with it."""
    push = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "push", "demo", "--bundle", bundle],
        cwd=project.folder,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _wait(
            lambda: _current(project) == digest.hex or push.poll() is not None,
            "the device has begun with the release",
        )
        assert push.poll() is None, push.communicate()[1].decode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(push.pid, signal.SIGKILL)
        push.wait()


def _current(project: Project) -> str:
    return (project.root() / "current").readlink().name


def state(project: Project) -> dict[str, Any]:
    """What the device says of itself."""
    return dict(json.loads(project.edgekit("state", "demo", "--json")))


def release(project: Project, digest: Digest) -> dict[str, Any]:
    """What the device has on record of a release."""
    return next(row for row in state(project)["releases"] if row["digest"] == digest)


def answers(project: Project) -> bool:
    """Whether the device answers a prompt."""
    with Requester(project.broker, "self-healing") as requester:
        replies = list(requester.ask("demo", PROMPT))
    return bool(replies) and isinstance(replies[-1], Final)


def _wait(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + HEALED_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {HEALED_SECONDS:g} s: {what}")
        time.sleep(0.1)

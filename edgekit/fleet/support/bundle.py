"""Collects a support bundle of one device, and writes it as one tar.gz."""

from __future__ import annotations

import gzip
import io
import json
import platform
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.logs import read_log
from edgekit.fleet.support import blank

LOG_LINES = 20_000
JOURNAL_LINES = 1_000
README = """\
A support bundle of edgekit, made {at} of the device {device}.

{contents}
Not in it: prompts, answers, passwords, private keys, accounts, what rules ask, and lines of the log
that edgekit did not write. `(left out)` stands where something was. Read it before you pass it on:
it names the device, its addresses, its releases, the requesters in its log and your operators.
"""
CONTENTS = {
    "controller.json": "edgekit, Python and system of the machine that made this",
    "facts.json": "hardware, system, disk and clock of the device",
    "state.json": "what it runs, its releases, trials and refusals, by `edgekit state`",
    "agent.json": "its agent.toml",
    "agent.log": "the end of its log",
    "journal.log": "what systemd says of the agent's unit",
    "broker.json": "card, status and metrics as the broker has them",
    "rollouts.json": "the rollouts of this project that it was in, and how each ended for it",
    "missing.json": "what could not be had, and why",
}


class SupportBundle:
    """The files of a bundle, and what could not be had."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.missing: dict[str, dict[str, str]] = {}

    def take(self, name: str, make: Callable[[], Any]) -> None:
        """Add a file; lines as text, and any other value as JSON. An error is noted instead."""
        try:
            made = make()
        except EdgekitError as error:
            self.missing[name] = blank.answer(error.to_dict())
            return
        if name.endswith(".log"):
            self.files[name] = "".join(f"{line}\n" for line in made).encode()
        else:
            told = msgspec.to_builtins(made, enc_hook=str)
            self.files[name] = json.dumps(told, indent=2).encode() + b"\n"


def collect(
    bundle: SupportBundle, driver: DeviceDriver, report: Callable[[str], None] = lambda _: None
) -> None:
    """Ask the device for everything that it says itself; changes nothing there."""
    facts = driver.facts
    report("facts")
    bundle.take("controller.json", _controller)
    told = msgspec.to_builtins(facts, enc_hook=str)
    told |= {"manifest": Digest.of(facts.manifest.encode()) if facts.manifest else ""}
    told |= {"config": "", "places": []}  # the one has passwords, the other is for comparison alone
    bundle.take("facts.json", lambda: told)
    bundle.take("agent.json", lambda: blank.config(facts.config))
    report("state")
    bundle.take("state.json", lambda: blank.answer(driver.call("state")))
    report("log")
    bundle.take("agent.log", lambda: blank.log(read_log(driver, lines=LOG_LINES).lines))
    if facts.supervisor.startswith("systemd"):
        report("journal")
        bundle.take(
            "journal.log",
            lambda: blank.journal(read_log(driver, lines=JOURNAL_LINES, journal=True).lines),
        )


def _controller() -> dict[str, str]:
    return {
        "edgekit": edgekit.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def write(bundle: SupportBundle, device: str, path: Path, now: float) -> list[str]:
    """Write the bundle; the file appears whole, and an existing one is never replaced.

    Returns:
        The names of its files.

    Raises:
        UsageError: the file exists.
    """
    if bundle.missing:
        bundle.take("missing.json", lambda: bundle.missing)
    there = [name for name in CONTENTS if name in bundle.files]
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    contents = "".join(f"{name:<16} {CONTENTS[name]}\n" for name in there)
    readme = README.format(at=at, device=device, contents=contents).encode()
    folder = f"support-{device}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in [("README.txt", readme), *((n, bundle.files[n]) for n in there)]:
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime, info.mode = len(data), int(now), 0o600
            tar.addfile(info, io.BytesIO(data))
    try:
        with path.open("xb") as file:
            path.chmod(0o600)
            try:
                file.write(gzip.compress(buffer.getvalue(), mtime=int(now)))
            except BaseException:
                path.unlink()
                raise
    except FileExistsError:
        raise UsageError(f"{path} exists", "", "name another file with -o") from None
    return ["README.txt", *there]

"""Runs `edgekit build` as a command, for tests of its effects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgekit.builder.tools.process import OFFLINE, clean_environment
from edgekit.builder.tools.progress import Progress
from tests.commands import edgekit

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
AS_INSTALLED = {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", "")}
"""For a command that is to have the toolchain as it is, not as `tests/warm.py` has it."""


def silent(_: Progress) -> None:
    """Ignores progress."""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgekit", "build", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200", **extra}


def edgekit_build(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    variables = environment(**extra)
    del variables["PYTHONPATH"]
    return subprocess.run(
        edgekit("build", *arguments), capture_output=True, text=True, timeout=590, env=variables,
        check=False,
    )  # fmt: skip


def run_script(python: str | Path, script: str, *arguments: str | Path) -> None:
    """Run a script below `tests` as the product runs those of the toolchain."""
    subprocess.run(
        [python, "-E", "-s", TESTS / script, *arguments],
        check=True, capture_output=True, timeout=500, env=clean_environment(OFFLINE),
    )  # fmt: skip


def make_tiny(python: str | Path, family: str, folder: Path) -> Path:
    run_script(python, "models/make_tiny_model.py", family, folder)
    return folder


def answer(python: str, folder: Path, question: str) -> str:
    done = subprocess.run(
        [python, TESTS / "harness/answer.py", folder, question],
        check=True,
        capture_output=True,
        timeout=60,
        env=environment(ORT_DISABLE_TELEMETRY="1"),
    )
    return done.stdout.decode("utf-8", "replace")


def content(folder: Path) -> dict[str, bytes]:
    """The model's own files, without records and reports."""
    about = ("build.json", "gate.json", "provenance.json", "report.html")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in about}


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())

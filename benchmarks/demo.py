"""`demo.*`: from nothing to an answer, with the command a newcomer types."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.figure import figure
from benchmarks.rig import Rig, run_edgekit

DEMO_SECONDS = 3600.0  # the cold one downloads the toolchain
WARM_ROUNDS = 3


def demo(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of wall time of one `edgekit demo` in `folder`."""
    began = time.perf_counter()
    run_edgekit(("demo",), folder, environment, DEMO_SECONDS)
    return time.perf_counter() - began


@figure(
    "demo.cold_seconds",
    what="`edgekit demo` for the first time: toolchain, model, build, push, answer",
    unit="s",
    against="an empty cache; package index included, so run once",
)
def cold_seconds(_: Rig) -> list[float]:
    """Seconds of wall time with an empty `XDG_CACHE_HOME`, which empties pip's cache too.

    One run: it takes minutes, and most of it is the package index.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-cold-") as name:
        folder = Path(name)
        return [demo(folder, os.environ | {"XDG_CACHE_HOME": str(folder / "cache")})]


@figure(
    "demo.warm_seconds",
    what="`edgekit demo` once more in the same folder",
    unit="s",
    against="the same folder and cache, after one run that does not count",
)
def warm_seconds(rig: Rig) -> list[float]:
    """Seconds of wall time with this user's cache, in a folder where the demo has run."""
    with tempfile.TemporaryDirectory(prefix="edgekit-warm-") as name:
        environment = dict(os.environ)
        demo(Path(name), environment)
        return [demo(Path(name), environment) for _ in range(min(rig.rounds, WARM_ROUNDS))]

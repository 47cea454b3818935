"""Pull mode, scene by scene, on a real registry, broker and agents: those of the system test.

Two devices pull from docker-registry and hear Mosquitto. One is off in a rollout and joins later;
the registry dies in a blob, and lies; accounts without the role and the broker itself forge.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests import shared
from tests.harness.pull_site import pull_site
from tests.show import Figures
from tests.show.planted import built_smollm2
from tests.system import test_pull


def count() -> tuple[Figures, bool]:
    """The figures, and whether every scene ended as it must."""
    started, failed, seconds = time.monotonic(), [], {}
    scenes = {
        name.removeprefix("test_"): scene
        for name, scene in vars(test_pull).items()
        if name.startswith("test_")
    }
    with tempfile.TemporaryDirectory(prefix="edgekit-pull-") as place:
        shared.RUN.folder = Path(place) / "shared"
        with pull_site(Path(place) / "site", built_smollm2()) as made:
            for name, scene in scenes.items():
                began = time.monotonic()
                try:
                    scene(made)
                except BaseException as error:  # also pytest's own failures
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    failed.append(f"{name}: {error}")
                seconds[name] = round(time.monotonic() - began)
    figures: Figures = {
        "scenes": len(scenes),
        "as_they_must_be": len(scenes) - len(failed),
        "seconds_each": "+".join(map(str, seconds.values())),
        "failed": ";".join(failed)[:1000] or 0,
        "seconds": round(time.monotonic() - started),
    }
    return figures, not failed

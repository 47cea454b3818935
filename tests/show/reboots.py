"""A device with a real systemd is rebooted ten times: idle, during a trial and during staging.

Each time the release that was good before answers again; then a push of the other one converges.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgekit.core import layout
from edgekit.data import cache_root
from tests.conftest import make_project_alone
from tests.harness.systemd_device import systemd_device
from tests.harness.units import ROOT, Installed, installed
from tests.show import Figures
from tests.tools import eventually

BEGUN = """
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
rows = db.execute("SELECT state, tries FROM releases WHERE digest = ?", sys.argv[2:]).fetchall()
sys.exit(rows != [("trial", 1)])
"""
KINDS = ("idle", "trial", "staging", "idle", "trial", "staging", "idle", "trial", "staging", "cut")


def count() -> tuple[Figures, bool]:
    """The figures, and whether the right release answered each time."""
    started, right = time.monotonic(), 0
    boots: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = cache_root() / "tests" / "smollm2"
        project = make_project_alone(folder / "project", 1883, model)
        (folder / "site").mkdir()
        with (
            systemd_device(folder / "device") as device,
            installed(device, project, folder / "site") as box,
        ):
            box.project.edgekit("push", "box")
            for number, kind in enumerate(KINDS):
                good = box.current()
                if kind in ("trial", "staging"):
                    new = box.pack(f"m{number}", model)
                    {"trial": during_trial, "staging": during_staging}[kind](box, f"m{number}", new)
                elif kind == "cut":
                    device.cut_power()
                else:
                    device.reboot()
                began = time.monotonic()
                box.answers(good)
                boots.append(time.monotonic() - began)
                right += 1
                if kind in ("trial", "staging"):
                    box.project.edgekit("push", "box", "--bundle", f"m{number}")
                    box.answers(new)
    figures: Figures = {
        "reboots": len(KINDS),
        "in_trial": KINDS.count("trial"),
        "in_staging": KINDS.count("staging"),
        "right_release_answered": right,
        "slowest_answer_seconds": round(max(boots), 1),
        "seconds": round(time.monotonic() - started),
    }
    return figures, right == len(KINDS)


def during_trial(box: Installed, bundle: str, release: str) -> None:
    """Push a release and cut the power while its trial runs, before it is ready.

    A cut before a supervisor has begun the trial would end nothing: the trial comes after it.
    """
    push = _push(box, bundle)
    try:
        begun = ("python3", "-c", BEGUN, f"{ROOT}/{layout.RELEASES_DB}", f"sha256:{release}")
        eventually(lambda: box.device.code(*begun) == 0, 120, "the trial runs")
        box.device.cut_power()
    finally:
        push.kill()
        push.wait()


def during_staging(box: Installed, bundle: str, release: str) -> None:
    """Push a release and reboot the device before it is staged, with its blobs damaged half-way."""
    staged = f"{ROOT}/releases/{release}"
    assert box.device.code("test", "-e", staged) != 0
    # A large blob that arrives again: the reboot comes while it is on its way.
    line = f"f=$(ls -S {ROOT}/blobs/sha256/* | head -1); rm -f $f"
    box.device.exec("sh", "-c", line)
    fleet = box.project.folder / "fleet.toml"
    before = fleet.read_text("utf-8")
    fleet.write_text(f"{before}[transfer]\nmbit_per_second = 80\n")  # it takes nine seconds
    push = _push(box, bundle)
    try:
        partly = f"ls {ROOT}/blobs/sha256/*.part"
        eventually(lambda: box.device.code("sh", "-c", partly) == 0, 120, "a blob is on its way")
        box.device.reboot()
        assert box.device.code("test", "-e", staged) != 0, "it was staged before the reboot"
    finally:
        push.kill()
        push.wait()
        fleet.write_text(before)


def _push(box: Installed, bundle: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit", "push", "box", "--bundle", bundle],
        cwd=box.project.folder,
        env=box.project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

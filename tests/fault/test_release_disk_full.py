"""A device whose disk fills up at each moment of an activation: a real disk, a small tmpfs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.full_device import MOMENTS

pytestmark = pytest.mark.timeout(120)
SCRIPT = Path(__file__).parents[1] / "faults" / "full_device.py"


def on_small_disk(folder: Path, size: str, *command: str) -> str:
    """Run a program in a mount namespace in which `folder` is a small disk; its output."""
    folder.mkdir()
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    done = subprocess.run(
        [*namespace, "sh", "-c", script, str(folder), sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        cwd=SCRIPT.parents[2],
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("moment", "kind"),
    [
        *((moment, "greedy") for moment in MOMENTS),
        ("before", "once"),
        ("in the trial of one that dies", "once"),
    ],
)
def test_a_full_disk_leaves_a_release_that_runs(moment: str, kind: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    seen: dict[str, Any] = json.loads(
        on_small_disk(disk, "40m", str(SCRIPT), str(disk), moment, kind)
    )
    assert seen["agents"] == 1, "exactly one agent runs"
    assert "Traceback" not in seen["errors"]
    if moment == "before, without a reserve":
        assert seen["answer"]["what"] == "the disk of the device is full"
        assert "what runs was not touched" in seen["answer"]["next"]
        assert seen["same agent"]
        assert (seen["current"], seen["state"]) == ("old", "staged")
    elif "trial" in moment:
        assert (seen["current"], seen["state"]) == ("old", "bad")
        assert seen["reason"]
        assert seen["old config"]
    else:
        assert seen["current"] in ("old", "new")
    if MOMENTS[moment].startswith("good"):
        assert seen["retried"] == 0
        assert set(seen["rows"].values()) == {"good"}


# Runs on a small disk. The way back is taken with no byte left, wherever the disk was when the
# reserve was asked for; what is asked for on a full disk is refused and changes nothing.
WAY_BACK = """
import json, os, sys
from pathlib import Path

from edgekit.agent.release.trial import disk
from edgekit.agent.release.space import reserve
from edgekit.agent.release.space.collect import collect
from edgekit.agent.release.trial.events import MoveCurrent, OnDisk, RecordVerdict
from edgekit.agent.release.log import LOG_BYTES, rotate
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.stage import offer
from edgekit.agent.release.state import Releases
from edgekit.agent.release.trial.machine import Trial
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent
from edgekit.core.room import BACK_BYTES
from edgekit.errors import EdgekitError
from tests.harness.held import activated, bundle, staged, tree, weights_of
from tests.trusted import vouched

folder = Path(sys.argv[1])
os.sync = lambda: None
ballast = folder / "ballast"


def fill(left):
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"b" * size)
            except OSError:
                continue
        os.truncate(ballast, max(0, file.tell() - left))


root = Root(folder / "root")
root.create()
root.log_file.write_bytes(b"line" * LOG_BYTES)
old = activated(root, "old")
new = staged(root, "new")
root.previous_config.write_text("old config")
links = {digest: f"releases/{digest.hex}" for digest in (old, new)}
refused = went = 0
for step in range(40):
    left = step * BACK_BYTES // 32
    reserve.give(root)
    fill(left)
    try:
        reserve.hold(root)
    except EdgekitError as error:
        refused += 1
        assert "what runs was not touched" in error.next_step, error
        assert not root.reserve_file.exists(), "a half reserve takes the last bytes"
        ballast.unlink()
        continue
    went += 1
    Releases(root.path).move(new, ReleaseEvent.ACTIVATE)
    for link, to in ((root.previous, old), (root.current, new)):
        link.unlink(missing_ok=True)
        link.symlink_to(links[to])
    root.previous_config.write_text("old config")
    fill(0)
    reserve.hold(root)  # it is there already
    release = root.linked(root.current)
    trial = Trial()
    found = disk.found(root)
    assert found.tries == 0
    Releases(root.path).count_try(new)
    for effect in trial.handle(disk.found(root), 0.0):
        if isinstance(effect, RecordVerdict):
            effect = RecordVerdict(new, ReleaseEvent.FAILED, "long words " * 10_000)
        assert not disk.perform_on_full(root, effect), effect
        fill(0)  # what the reserve gave back is taken at once
    assert root.linked(root.current) == old
    assert root.agent_config.read_text() == "old config"
    row = Releases(root.path).get(new)
    assert (row.state, len(row.reason)) == ("bad", 4000), row
    rotate(root.log_file)
    assert root.log_file.stat().st_size == 0
    ballast.unlink()
    root.log_file.write_bytes(b"line" * LOG_BYTES)
    Releases(root.path).stage(new, "new", "1")
assert refused > 10 and went > 5, (refused, went)

for number in range(4):
    activated(root, str(number))
newer, _ = bundle("newer", weights_of("newer"), tree(own="1"), tree())
verified = vouched(root, newer)
fill(0)
try:
    offer(root, verified)
    sys.exit("it cannot fit on this disk")
except EdgekitError as error:
    assert "too small" in error.what, error
    assert "were collected" in error.why, error
    assert "what runs was not changed" in error.next_step, error
kept = {path.name for path in (root.path / "releases").iterdir()}
assert {root.linked(root.current).hex, root.linked(root.previous).hex} <= kept and len(kept) <= 3
fill(0)
assert collect(root).failed == {}
print(refused, went)
"""


def test_the_way_back_needs_no_byte_and_garbage_goes_before_a_refusal(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    on_small_disk(disk, "32m", "-c", WAY_BACK, str(disk))

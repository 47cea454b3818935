"""The quality canary on a real device: a good rebuild passes, and damage that passes the gate
and the trial pauses the rollout.

Twenty of each: `python -m tests.show quality-canary`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.serve.loop.samplestore import SampleStore
from edgekit.client import Final, Requester
from edgekit.core.digest import Digest
from edgekit.core.quality import REBUILT, QualityBound, worse
from tests import tools
from tests.building import run_script
from tests.conftest import PACK, Project, make_project
from tests.harness.quality import baseline, compared

pytestmark = pytest.mark.timeout(600)

DAMAGE, HEALTHY = "norm-12", "other_kernels"
SECRET = "My locker has the number 4711, and the blue key opens it."


@pytest.fixture(scope="module")
def variants(smollm2: Path, python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in other kernels, and one with a damaged layer, as if they had been built."""
    out = tmp_path_factory.mktemp("variants")
    run_script(python, "faults/plant_quality.py", smollm2, out, HEALTHY, DAMAGE)
    for name in (HEALTHY, DAMAGE):
        _record(out / name)
    return out


def _record(folder: Path) -> None:
    """Write the digests of the changed files into build.json, as a build of them has them.

    The signed statement about the build is optional, and is not of these files.
    """
    (folder / "provenance.json").unlink()
    path = folder / "build.json"
    record = json.loads(path.read_text("utf-8"))
    for name, told in record["files"].items():
        told["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(record), "utf-8")


def test_a_good_rebuild_is_above_the_bound_and_a_damaged_one_below(
    smollm2: Path, variants: Path
) -> None:
    samples = baseline(smollm2)
    good, damaged = (compared(samples, variants / name) for name in (HEALTHY, DAMAGE))
    assert worse(good, QualityBound()) == worse(good, REBUILT) == ""
    assert 0 < good.kl < REBUILT.kl / 4, good  # measured: 0.0025; 0 would be the same kernels
    assert "KL divergence" in worse(damaged, REBUILT)
    assert damaged.kl > 3 * REBUILT.kl, damaged  # measured: 0.099


@pytest.fixture
def device(smollm2: Path, tmp_path: Path) -> Iterator[Project]:
    """A device that runs a good release and keeps ended prompts."""
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        fleet = project.folder / "fleet.toml"
        fleet.write_text(fleet.read_text("utf-8") + "canary_samples = 5\n", "utf-8")
        project.edgekit("push", "demo")
        yield project
        project.edgekit("stop", "demo")


def told(project: Project, *words: str) -> Any:
    return json.loads(project.edgekit(*words, "--json"))


def wait(true: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_a_rollout_is_paused_by_the_quality_of_its_canary(device: Project, variants: Path) -> None:
    root = device.root()
    store = SampleStore(root, 5)
    first = told(device, "state", "demo")["current"]
    with Requester(device.broker, "canary-test") as requester:
        for kept in (True, False):
            body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}
            replies = list(requester.ask("demo", body | ({} if kept else {"store": False})))
            assert isinstance(replies[-1], Final)
    wait((root / "releases" / Digest(first).hex / "baseline.json").exists, "a baseline")
    wait(lambda: len(store.samples(first)) == 1, "one prompt is kept, the refused one is not")
    assert store.path.stat().st_mode & 0o777 == 0o600

    device.edgekit("pack", str(variants / HEALTHY), "--name", "smollm2", "--version", "2",
                   "--context", "1024", *PACK)  # fmt: skip
    device.edgekit("push", "demo", "--bundle", "smollm2:2", "--quality")
    status = told(device, "status")
    assert status["phase"] == "done"
    (row,) = status["devices"]
    assert row["quality"]["against"] == first
    assert row["quality"]["rebuilt"]
    score = row["quality"]["score"]
    assert (score["prompts"], score["ended"]) == (5, 1)
    assert score["kl"] < REBUILT.kl
    assert not store.path.exists()  # they were judged with
    assert "agreement" in device.edgekit("status")
    second = told(device, "state", "demo")
    assert second["quality"] == row["quality"]
    wait((root / "releases" / Digest(second["current"]).hex / "baseline.json").exists, "a second")

    device.edgekit("pack", str(variants / DAMAGE), "--name", "smollm2", "--version", "3",
                   "--context", "1024", *PACK)  # fmt: skip
    paused = device.run("push", "demo", "--bundle", "smollm2:3", "--quality", "--json")
    status = told(device, "status")
    assert (paused.returncode, status["phase"]) == (3, "paused"), paused.stderr
    assert "the canary demo answers worse than with the release before" in status["reason"]
    assert "made from the same source in the same way" in status["reason"]
    assert status["devices"][0]["quality"]["score"]["kl"] > REBUILT.kl
    device.edgekit("report", "-o", "page.html")
    assert "KL divergence" in (device.folder / "page.html").read_text("utf-8")
    device.edgekit("rollback", "--rollout", "newest", "--yes")
    assert told(device, "state", "demo")["current"] == second["current"]
    small = [p for p in root.rglob("*") if p.is_file() and p.stat().st_size < 8 << 20]
    assert any(p.name == "journal.db" for p in small)
    assert not [p for p in small if SECRET.encode() in p.read_bytes()]
    shutil.rmtree(variants / DAMAGE)

"""A packed model goes on a stick to a device that has no network at all, and answers there."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.bundle.layers import bootstrap
from edgekit.bundle.layout import Layout
from edgekit.core import layout
from edgekit.fleet import receive
from tests import tools
from tests.conftest import Project, make_project

pytestmark = pytest.mark.timeout(600)

STORY = Path(__file__).parents[1] / "faults" / "no_network.py"


def enrolled(project: Project, root: Path) -> None:
    """A fresh ROOT with the project's root of trust and the agent of a first contact."""
    store = Layout(project.store)
    manifest = store.resolve("smollm2:1").manifest
    name, tar = bootstrap(store, manifest, manifest.runtimes[0])
    root.mkdir()
    (root / f".bootstrap-{name}.part").write_bytes(tar)
    assert receive.receive(root, name, len(tar)) == (len(tar), True)
    trust = root / layout.TRUST
    trust.mkdir(parents=True)
    (trust / "root.json").write_bytes((project.folder / "trust" / "1.root.json").read_bytes())


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_an_export_is_staged_activated_and_answers_where_there_is_no_network(
    smollm2: Path, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", tools.free_port(), smollm2)
    folder, unpacked = tmp_path / "usb", tmp_path / "unpacked"
    for target in (folder, tmp_path / "bundle.tar"):
        project.edgekit("export", "smollm2:1", "-o", str(target))
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "bundle.tar", "-C", unpacked], check=True)
    names = files(folder)
    both = [n for n in names if not n.endswith(("snapshot.json", "timestamp.json"))]
    assert filecmp.cmpfiles(folder, unpacked, both, shallow=False) == (both, [], [])
    digest = Layout(project.store).resolve("smollm2:1").digest
    root = tmp_path / "root"
    enrolled(project, root)
    namespace = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    done = subprocess.run(
        [*namespace, sys.executable, str(STORY), str(root), str(tmp_path), str(unpacked), digest],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["interfaces"] == ["lo"]
    assert told["outside"] == errno.ENETUNREACH
    assert told["staged"]["copied"] > 100e6
    assert "Paris" in told["answer"]
    (release,) = told["state"]["releases"]
    assert (release["digest"], release["state"]) == (digest, "good")
    assert told["state"]["trust"]["how"] == "enrolled"

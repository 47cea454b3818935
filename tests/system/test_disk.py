"""A real device's disk: what is damaged is found, mended and sent again; garbage goes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from edgekit.agent.release.root import Root
from edgekit.client import Final, Requester
from edgekit.core.digest import Digest
from edgekit.core.manifest import parse_manifest
from tests import tools
from tests.conftest import make_project


def damage(*names: Path) -> None:
    """Flip a bit of a file that has these names in ROOT; the run's shared copy keeps its own."""
    damaged = names[0].with_name(".damaged")
    shutil.copyfile(names[0], damaged)
    with damaged.open("r+b") as file:
        at = damaged.stat().st_size // 2
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    damaged.chmod(0o444)
    for name in names:
        name.unlink()
        os.link(damaged, name)
    damaged.unlink()


def test_what_rots_is_found_and_mended_and_what_is_not_needed_goes(
    tmp_path: Path, smollm2: Path
) -> None:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        root = Root(project.root())
        current = root.linked(root.current)
        assert current is not None
        try:
            project.edgekit("push", "demo")
            pid = json.loads(root.ready_file.read_bytes())["pid"]
            assert project.edgekit("scrub", "demo", "--rate", "0").startswith("demo: ")

            weights = max(
                parse_manifest(root.store.read(current)).model_files, key=lambda each: each.size
            )
            model = root.release(current) / "model" / weights.title
            damage(root.store.path(weights.digest), model)
            code = root.release(current).resolve() / "agent" / "edgekit"
            damage(code / "agent" / "serve" / "worker" / "beam.py")
            found = project.run("scrub", "demo", "--rate", "0", "--json")
            assert found.returncode == 4
            assert "edgekit push demo" in found.stderr
            told = json.loads(found.stdout)["found"]
            assert [(each["kind"], each["mended"]) for each in told] == [
                ("blob", False),
                ("tree", True),
            ]
            assert "worker/beam.py" in told[1]["what"]
            shown = project.edgekit("state", "demo")
            assert f"damaged    blob {weights.digest.short}" in shown
            assert json.loads(root.ready_file.read_bytes())["pid"] == pid, "it ran all the while"

            # Its agent cannot even start a verb: the push brings one, which mends the tree
            damage(code / "errors.py")
            assert project.run("state", "demo").returncode == 1
            assert "1 blobs" in project.edgekit("push", "demo")
            assert json.loads(root.ready_file.read_bytes())["pid"] != pid, "it maps what is right"
            assert model.samefile(root.store.path(weights.digest))
            assert "damaged" not in project.edgekit("scrub", "demo", "--rate", "0")
            with Requester(project.broker, "tester") as requester:
                asked = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 4}
                assert isinstance(list(requester.ask("demo", asked))[-1], Final)

            orphan = root.store.part_path(Digest.of(b"another"))
            orphan.write_bytes(b"x" * 100_000)
            (root.trees / f".{'a' * 64}.tmp").mkdir()
            dry = json.loads(project.edgekit("prune", "demo", "--dry-run", "--json"))
            assert {each["kind"] for each in dry["removed"]} == {"part", "temporary"}
            assert orphan.exists()
            assert "freed 102.4 kB" in project.edgekit("prune", "demo")
            assert not orphan.exists()
            assert "pinned" in project.edgekit("prune", "demo", "--pin", current.short)
            assert json.loads(project.edgekit("state", "demo", "--json"))["pinned"] == [current]
            for wrong in (("--pin", "abc"), ("--pin", current, "--dry-run")):
                assert project.run("prune", "demo", *wrong).returncode == 2
            refused = project.run("tune", "demo")
            assert (refused.returncode, "threads = 2" in refused.stderr) == (2, True)
        finally:
            project.edgekit("stop", "demo")

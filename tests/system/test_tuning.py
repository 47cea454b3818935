"""A device finds the runtime's setting by itself at its first start, and keeps it."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.client import devices
from tests import tools
from tests.conftest import make_project


def pid_in(root: Path) -> object:
    """The agent that answers; None while none does."""
    try:
        return json.loads((root / "run" / "ready.json").read_bytes())["pid"]
    except FileNotFoundError:
        return None


def test_a_device_measures_once_and_starts_with_the_result(tmp_path: Path, smollm2: Path) -> None:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        fleet = project.folder / "fleet.toml"
        fleet.write_text(fleet.read_text().replace("threads = 2\n", ""))
        root = project.root()
        project.edgekit("push", "demo")
        try:
            first = json.loads((root / "run" / "ready.json").read_bytes())
            kept = (root / "tuning.json").read_bytes()
            shown = project.edgekit("state", "demo")
            card = devices(project.broker, "tester")["demo"]["card"]
            project.edgekit("stop", "demo")
            project.edgekit("push", "demo")  # starts what is there
            again = json.loads((root / "run" / "ready.json").read_bytes())
            kept_then = (root / "tuning.json").read_bytes()
            assert "results forgotten: 1" in project.edgekit("tune", "demo")
            tools.eventually(
                lambda: pid_in(root) not in (None, again["pid"]), 90.0, "it starts anew"
            )
            measured = json.loads((root / "tuning.json").read_bytes())
        finally:
            project.edgekit("stop", "demo")
    tried = json.loads(kept)[0]["tried"]
    assert json.loads(kept)[0]["key"].startswith(first["release"])
    assert len(tried) >= 2
    assert first["model"]["tuned"]
    chosen = (first["model"]["threads"], first["model"]["spinning"])
    assert chosen in [(t["threads"], t["spinning"]) for t in tried]
    assert (again["model"]["threads"], again["model"]["spinning"]) == chosen
    assert kept_then == kept
    assert measured[0]["key"] == json.loads(kept)[0]["key"]
    assert measured[0]["tried"] != json.loads(kept)[0]["tried"], "it was measured again"
    spinning = "spinning" if chosen[1] else "not spinning"
    assert f"{chosen[0]} threads {spinning}, measured here" in shown
    assert (card["threads"], card["spinning"]) == chosen
    assert card["slots"] == first["model"]["slots"]

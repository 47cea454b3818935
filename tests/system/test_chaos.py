"""Nothing is lost while everything is killed: the endurance test for as long as CI has time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.broker import Mosquitto
from edgekit.agent.release.root import Root
from tests.conftest import make_project
from tests.endurance.chaos import Chaos

pytestmark = pytest.mark.timeout(1200)  # among the first, too: it may wait for the model


def test_no_accepted_prompt_is_lost_and_none_is_answered_twice(
    smollm2: Path, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    project = make_project(tmp_path / "project", broker.port, smollm2)
    project.copy_root(smollm2)
    broker.stop()
    chaos = Chaos(
        Root(project.root()), broker, prompts=60, kills=6, clients=10, within=8, seed=20261125
    )
    tally = chaos.run()
    report = "\n".join(tally.lines())
    sys.stdout.write(f"{report}\n")
    assert not tally.problems, report
    assert tally.killed >= 6, report
    assert tally.finals + sum(tally.errors.values()) == tally.prompts == 60
    assert tally.stored == 60
    assert tally.finals >= 50, report

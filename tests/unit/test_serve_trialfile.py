"""What an agent on trial tells its supervisor, and when."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.loop.notify import Notifier
from edgekit.agent.serve.loop.process import worker_settings
from edgekit.agent.serve.loop.service import Service
from edgekit.agent.serve.loop.trialfile import TrialFile, rss_bytes
from edgekit.agent.serve.pipe import Ready
from edgekit.core.config import AgentConfig
from edgekit.core.golden import GoldenScore, TrialReport
from tests.harness.session import bundle

SCORE = GoldenScore(64, 38, 1.0, 0.01, 20.0)


def told(path: Path) -> TrialReport:
    return msgspec.json.decode(path.read_bytes(), type=TrialReport)


def test_the_report_says_what_is_known_so_far(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    file = TrialFile(path)
    assert not path.exists()
    file.tick(None)
    assert told(path).rss_bytes == pytest.approx(rss_bytes(os.getpid()), rel=0.2)
    file.loaded(SCORE)
    file.connected()
    report = told(path)
    assert (report.loaded, report.connected, report.score) == (True, True, SCORE)
    file.remove()
    file.remove()
    assert not path.exists()


def test_the_memory_is_that_of_agent_and_worker(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    script = "import sys; held = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    worker = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        TrialFile(path).tick(worker.pid)
        assert told(path).rss_bytes >= rss_bytes(os.getpid()) + (64 << 20)
    assert rss_bytes(worker.pid) == 0


def test_a_report_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    file = TrialFile(path)
    file.loaded(None)
    written = path.stat().st_ino
    file.loaded(None)
    assert path.stat().st_ino == written
    file.connected()
    assert told(path) == TrialReport(loaded=True, connected=True)


def test_no_report_is_written_once_the_supervisor_has_removed_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    file = TrialFile(path)
    file.loaded(None)
    path.unlink()
    file.connected()
    assert not path.exists()


def test_a_report_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "later" / "trial.json"
    file = TrialFile(path)
    file.loaded(SCORE)
    path.parent.mkdir()
    file.tick(None)
    assert told(path).score == SCORE


def test_a_report_that_cannot_be_written_does_not_end_the_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TrialFile(tmp_path / "none" / "trial.json")
    file.loaded(SCORE)
    file.connected()
    assert caplog.text.count("cannot be written") == 1


def service(folder: Path, trial: TrialFile | None) -> Service:
    return Service(
        AgentConfig("pi"),
        bundle(),
        "sha256:r",
        *(folder / "model", folder / "ready", folder / "tuning"),
        "a",
        folder / "journal.db",
        Notifier({}),
        trial,
        "g",
    )


def test_the_service_reports_only_on_trial(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    service(tmp_path, None)._said(Ready(1.0, 1.0, score=SCORE))
    assert not path.exists()
    on_trial = service(tmp_path, TrialFile(path))
    on_trial._said(Ready(1.0, 1.0, score=SCORE))
    assert told(path) == TrialReport(loaded=True, score=SCORE)
    on_trial._connection(False)
    assert not told(path).connected
    on_trial._connection(True)
    on_trial._connection(False)
    on_trial._tick(0.0)
    assert told(path).connected  # it was, which is what a trial asks
    assert told(path).rss_bytes > 0


def test_the_worker_scores_what_it_is_told() -> None:
    settings = worker_settings(AgentConfig("pi"), bundle(), "r", Path("/m"), Path("/t"), "/g.json")
    assert settings.golden == "/g.json"


@pytest.mark.parametrize(
    ("floor", "on_trial", "measured"), [(4.0, True, True), (0.0, True, False), (4.0, False, False)]
)
def test_the_worker_measures_tokens_per_second_on_trial_where_a_floor_is_set(
    floor: float, on_trial: bool, measured: bool
) -> None:
    config = AgentConfig("pi", min_tokens_per_second=floor)
    where = (bundle(), "r", Path("/m"), Path("/t"))
    assert worker_settings(config, *where, on_trial=on_trial).measure_speed is measured

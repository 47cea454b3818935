"""The systemd unit: systemd reads it without a complaint, and finds it well locked up."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from edgekit import data
from edgekit.agent.__main__ import _parser
from edgekit.agent.release.watch import BACKOFF_SECONDS
from edgekit.core.config import DRAIN_SECONDS
from tests import tools

UNIT = data.path("deploy/systemd/edgekit-agent.service")
THRESHOLD = 20  # exposure 2.0 of 10


def analyze(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools.find("systemd-analyze"), verb, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def exposure(unit: Path) -> int:
    """The exit code for our threshold."""
    return analyze("security", "--offline=true", f"--threshold={THRESHOLD}", str(unit)).returncode


def test_the_unit_s_exposure_is_below_the_threshold(tmp_path: Path) -> None:
    assert exposure(UNIT) == 0
    weaker = tmp_path / UNIT.name
    weaker.write_text(UNIT.read_text("utf-8").replace("CapabilityBoundingSet=\n", ""), "utf-8")
    assert exposure(weaker) != 0, "the threshold tells nothing"


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    done = analyze("verify", str(UNIT))
    assert (done.returncode, done.stderr) == (0, "")
    wrong = tmp_path / UNIT.name
    wrong.write_text(UNIT.read_text("utf-8").replace("WatchdogSec", "WatchdogSek"), "utf-8")
    assert "WatchdogSek" in analyze("verify", str(wrong)).stderr


def test_the_unit_starts_a_verb_of_the_agent_from_the_trees_of_current() -> None:
    (command,) = settings()["ExecStart"]
    python, *options = shlex.split(command)
    assert Path(python).name == "python3"
    assert options[:4] == ["-S", "-P", "-m", "edgekit.agent"]
    asked = _parser().parse_args(options[4:])
    assert asked.verb == "boot"
    trees = f"{asked.root}/current/agent:{asked.root}/current/runtime"
    assert f"PYTHONPATH={trees}" in settings()["Environment"]
    assert str(asked.root) == f"/var/lib/{settings()['StateDirectory'][0]}"


@pytest.mark.parametrize(
    ("name", "at_least"),
    # half of the watchdog's time, a death just then, the back-off, the start of a Python
    [("WatchdogSec", 2 * (max(BACKOFF_SECONDS) + 10)), ("TimeoutStopSec", DRAIN_SECONDS + 20)],
)
def test_the_unit_s_times_are_longer_than_what_happens_in_them(name: str, at_least: float) -> None:
    assert float(settings()[name][0]) >= at_least

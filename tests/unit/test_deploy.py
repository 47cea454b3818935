"""The systemd units: systemd reads them without a complaint, and finds them well locked up."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from edgekit import data
from edgekit.agent.__main__ import _parser
from edgekit.agent.release.supervisor.watch import BACKOFF_SECONDS
from edgekit.core import layout
from edgekit.core.config import DRAIN_SECONDS
from tests import tools

FOLDER = data.path("deploy/systemd")
UNIT = FOLDER / "edgekit-agent.service"
UPDATER = FOLDER / "edgekit-updater@.service"
USER_UNIT = FOLDER / "user" / "edgekit-agent.service"
DOOR = data.path("deploy/door/edgekit-door")
THRESHOLD = 20  # exposure 2.0 of 10
USER_THRESHOLD = 65  # without rights there are no name spaces of file systems


def analyze(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools.find("systemd-analyze"), verb, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_no_number_of_connections_or_crashes_makes_systemd_give_up() -> None:
    assert settings(FOLDER / "edgekit-updater.socket")["TriggerLimitIntervalSec"] == ["0"]
    for unit in (UNIT, USER_UNIT):
        assert settings(unit)["StartLimitIntervalSec"] == ["0"]


def exposure(unit: Path, threshold: int = THRESHOLD) -> int:
    """The exit code for our threshold."""
    return analyze("security", "--offline=true", f"--threshold={threshold}", str(unit)).returncode


@pytest.mark.parametrize("unit", [UNIT, UPDATER], ids=lambda unit: unit.name)
def test_the_unit_s_exposure_is_below_the_threshold(tmp_path: Path, unit: Path) -> None:
    assert exposure(unit) == 0
    weaker = tmp_path / unit.name
    text = unit.read_text("utf-8")
    for line in ("CapabilityBoundingSet=\n", "PrivateNetwork=yes\n"):
        text = text.replace(line, "")
    weaker.write_text(text, "utf-8")
    assert exposure(weaker) != 0, "the threshold tells nothing"


def test_the_user_unit_has_what_works_without_rights() -> None:
    assert exposure(USER_UNIT, USER_THRESHOLD) == 0
    system, user = settings(), settings(USER_UNIT)
    home = "%h/.local/share/edgekit"
    moved = {key: [v.replace("/var/lib/edgekit", home) for v in system[key]] for key in system}
    assert {key: user[key] for key in user if user[key] != moved.get(key)} == {
        "WantedBy": ["default.target"]
    }


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "user"], ids=["system", "user"])
def test_a_request_starts_the_agent_of_its_root(folder: Path) -> None:
    path, service = settings(folder / "edgekit-agent.path"), folder / "edgekit-agent.service"
    (root,) = settings(service)["WorkingDirectory"]
    assert path["PathExists"] == [f"{root}/{layout.START_FILE}"]
    assert path["Unit"] == [service.name]
    assert settings(service)["ConditionPathExists"] == [
        f"{root}/{layout.CURRENT}",
        f"!{root}/{layout.STOPPED_FILE}",
    ]


def test_only_the_push_account_reaches_the_door() -> None:
    socket = settings(FOLDER / "edgekit-updater.socket")
    assert (socket["SocketGroup"], socket["SocketMode"]) == (["edgekit-push"], ["0660"])
    assert (socket["Accept"], settings(UPDATER)["User"]) == (["yes"], ["edgekit"])
    (command,) = settings(UPDATER)["ExecStart"]
    assert shlex.split(command)[1:] == ["serve", "/var/lib/edgekit"]
    assert socket["ListenStream"][0] in DOOR.read_text("utf-8")
    assert DOOR.stat().st_mode & 0o111


@pytest.mark.parametrize("unit", [UPDATER.name, "edgekit-updater.socket", "edgekit-agent.path"])
def test_systemd_understands_the_other_units(unit: str) -> None:
    said = analyze("verify", str(FOLDER / unit)).stderr.splitlines()
    # the door is not installed on this machine
    assert not [line for line in said if "edgekit-door is not executable" not in line], said


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
    asked = _parser("").parse_args(options[4:])
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

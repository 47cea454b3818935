"""`edgekit state` shows how a device stands with its broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release.describe import describe
from edgekit.agent.release.root import Root
from edgekit.cli.device.fleet import _broker_lines, _trial_lines

TOLD: dict[str, Any] = {
    "broker": "pi:1883",
    "connected": True,
    "trouble": "",
    "unserved": ["$share/ek.a/edgekit/v1/req/pool/a/+"],
    "refused": [{"topic": "edgekit/v1/dev/pi/card", "code": 135, "reason": "Not authorized"}],
}


class Supervised:
    """A supervisor that runs, or does not."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid

    def pid(self) -> int | None:
        return self._pid

    def start(self, release: Path) -> None:
        """It is not asked to."""

    def stop(self) -> None:
        """It is not asked to."""


@pytest.mark.parametrize(
    ("written", "pid", "shown"),
    [(json.dumps(TOLD), 1, TOLD), (json.dumps(TOLD), None, None), ("{", 1, None), (None, 1, None)],
)
def test_the_agent_s_file_is_shown_while_it_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: str | None,
    pid: int | None,
    shown: object,
) -> None:
    root = Root(tmp_path)
    root.create()
    monkeypatch.setattr("edgekit.agent.release.describe.answering", lambda _: True)
    root.ready_file.write_text("{}")
    if written is not None:
        root.broker_file.write_text(written)
    assert describe(root, Supervised(pid))["broker"] == shown  # type: ignore[arg-type]  # it has what is used


def test_lines_name_what_is_refused() -> None:
    assert _broker_lines(TOLD) == [
        "broker     pi:1883, connected",
        "unserved   $share/ek.a/edgekit/v1/req/pool/a/+",
        "refused    edgekit/v1/dev/pi/card: Not authorized (0x87)",
    ]
    gone = {**TOLD, "connected": False, "trouble": "it is off", "unserved": [], "refused": []}
    assert _broker_lines(gone) == ["broker     pi:1883, not connected: it is off"]


@pytest.mark.parametrize("older", [None, {}])
def test_an_older_agent_reports_nothing(older: dict[str, Any] | None) -> None:
    assert _broker_lines(older) == []


def test_state_says_why_it_runs_what_waits_and_what_was_refused() -> None:
    answer = {
        "since": 0.0,
        "why": "release aaa is unproven: no connection",
        "trial": {"soak_seconds": 12.5},
        "unproven": {
            "digest": "sha256:" + "a" * 64,
            "since": 0.0,
            "tries": 2,
            "reason": "no connection",
            "again_after_seconds": 120.0,
        },
        "refusals": [
            {"at": 0.0, "digest": "sha256:" + "b" * 64, "what": "it is older", "why": "3 after 4"}
        ]
        * 9,
    }
    lines = _trial_lines(answer)
    assert [line.split()[0] for line in lines] == [
        *("since", "why", "soak", "unproven"),
        *["refused"] * 5,
    ]
    assert "2 times; tried again 120 s after each" in lines[3]
    assert lines[4].endswith("it is older: 3 after 4")
    assert _trial_lines({}) == []

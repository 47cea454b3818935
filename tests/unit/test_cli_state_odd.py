"""What a device says is shown, or refused by name; nothing of it moves the terminal's cursor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release import stopped
from edgekit.agent.release.describe import describe
from edgekit.agent.release.retune import _end_agent, _forget
from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.agent.release.trial.evidence import Reports, read_json
from edgekit.cli import render
from edgekit.cli.device import fleet
from edgekit.errors import EdgekitError

ANSWER: dict[str, Any] = {
    "current": None, "previous": None, "answering": False, "supervisor": "cron", "releases": [],
}  # fmt: skip
ODD: dict[str, dict[str, Any]] = {
    "no releases": {"releases": None},
    "a release without a name": {"releases": [{"digest": "sha256:" + "0" * 64}]},
    "a time that no clock has": {"stopped_since": 1e300},
    "a scrub of another kind": {"scrub": {"a": 1}},
    "a broker of another kind": {"broker": [1]},
    "trust of another kind": {"trust": {"root": 1}},
    "a model of another kind": {"model": {"slots": 1}},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_answer_is_refused_by_name_and_json_still_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(fleet, "call", lambda *_: ANSWER | ODD[name])
    with pytest.raises(EdgekitError, match="the answer of pi cannot be shown") as raised:
        fleet.state("pi")
    assert "state pi --json" in raised.value.next_step
    fleet.state("pi", as_json=True)
    assert capsys.readouterr().out.startswith("{")


def test_control_characters_of_a_device_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hidden = "failed: \x1b[2Jgone\x1b]0;title\x07 \x9b1A\tdone\n"
    render.say(hidden)
    render.warn(hidden)
    render.complain(EdgekitError(hidden))
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & {"\x1b", "\x07", "\x9b"}
        assert "gone" in text
    assert "done" in out


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b"NaN"])
def test_no_file_of_a_device_ends_its_state_with_a_traceback(
    tmp_path: Path, content: bytes
) -> None:
    root = Root(tmp_path)
    root.create()
    for file in (
        *(root.scrub_file, root.broker_file, root.ready_file, root.trial_file, root.tuning_file),
        *(root.stopped_file, root.pinned_file, root.offered_file, root.lease_file),
    ):
        file.write_bytes(content)
    told = describe(root, Detached(root))
    assert told["stopped_since"] == root.stopped_file.stat().st_mtime
    assert (told["scrub"] is None) is (content != b"{}")
    assert list(fleet._state_lines(ANSWER | told, "pi"))
    assert Reports(root.trial_file).next() is None or content == b"{}"
    assert read_json(root.broker_file) == {}
    assert _end_agent(root) is False
    assert _forget(root, "sha256:" + "0" * 64) == 0


def test_a_stop_that_cannot_be_read_is_a_stop(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.create()
    root.stopped_file.mkdir()
    os.utime(root.stopped_file, (1e9, 1e9))
    assert stopped.since(root) == 1e9


def test_an_activation_and_a_supervisor_load_no_library_that_they_do_not_need() -> None:
    """They run beside a model on a small device; what scrubs and unpacks has zstandard."""
    line = "import sys, edgekit.agent.release.activate, edgekit.agent.release.supervisor.watch"
    said = subprocess.run(
        [sys.executable, "-c", f"{line}; print(*sys.modules)"], capture_output=True, check=True
    ).stdout.decode()
    assert not {"zstandard", "tuf", "numpy"} & set(said.split())

"""The reader of a device's log: its end, what comes after a cursor, and rotations between."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release import log
from edgekit.agent.release.door.readlog import RefusedLogError, add_log_options, answer
from edgekit.cli.device.logs import seconds_ago
from edgekit.core import layout
from edgekit.errors import UsageError
from edgekit.fleet.logs import READ_LOG

AGENT = "2026-11-30 08:00:{:02},123 edgekit.agent: line {}"
SUPERVISOR = "2026-11-30T09:00:{:02}+0000 supervisor: line {}"


def read(root: Path, *words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_log_options(parser)
    return answer(str(root), parser.parse_args(words))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / layout.LOG_FILE
    path.parent.mkdir()
    path.write_text("one\ntwo\nthree\nhalf")
    return path


def test_the_end_of_a_log_is_made_of_whole_lines(tmp_path: Path, written: Path) -> None:
    first = read(tmp_path, "--lines", "2")
    assert (first["lines"], first["lost"]) == (["two", "three"], False)
    with written.open("a") as file:
        file.write(" a line\nfour\n")
    then = read(tmp_path, "--after", first["cursor"])
    assert then["lines"] == ["half a line", "four"]
    assert read(tmp_path, "--after", then["cursor"])["lines"] == []
    assert read(tmp_path, "--lines", "0")["cursor"] == then["cursor"]


def test_no_log_yet_and_then_one(tmp_path: Path) -> None:
    first = read(tmp_path)
    assert (first["lines"], first["lost"]) == ([], False)
    path = tmp_path / layout.LOG_FILE
    path.parent.mkdir()
    path.write_text("begun\n")
    assert read(tmp_path, "--after", first["cursor"])["lines"] == ["begun"]


@pytest.mark.parametrize("grown", [0, 3_000_000])
def test_a_rotation_loses_no_line(tmp_path: Path, written: Path, grown: int) -> None:
    written.write_text("".join(f"{n:06} before\n" for n in range(80_000)))
    first = read(tmp_path, "--lines", "1")
    with written.open("a") as file:
        file.write("between\n")
    log.rotate(written)
    assert written.stat().st_size == 0
    with written.open("a") as file:
        file.write("after\n" + "x" * grown + "\n")  # it may outgrow the cursor
    then = read(tmp_path, "--after", first["cursor"])
    assert (then["lines"][:2], then["lost"]) == (["between", "after"], False)
    assert read(tmp_path, "--lines", "4")["lines"][0:2] == ["079999 before", "between"]


def test_a_rotation_without_room_for_a_copy_is_told(tmp_path: Path, written: Path) -> None:
    first = read(tmp_path)
    written.write_text("anew\n")
    then = read(tmp_path, "--after", first["cursor"])
    assert (then["lines"], then["lost"]) == (["anew"], True)


def test_since_counts_back_from_now_and_keeps_what_follows_a_line(
    tmp_path: Path, written: Path
) -> None:
    now = time.time()

    def agent(ago: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now - ago)) + ",001 edgekit: x"

    def supervisor(ago: float) -> str:
        at = time.localtime(now - ago)
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", at) + " supervisor: x"

    lines = [agent(900), "Traceback", supervisor(500), agent(100), "  File x", supervisor(10)]
    written.write_text("\n".join(lines) + "\n")
    assert read(tmp_path, "--since", "1000")["lines"] == lines
    assert read(tmp_path, "--since", "600")["lines"] == lines[2:]
    assert read(tmp_path, "--since", "200")["lines"] == lines[3:]
    assert read(tmp_path, "--since", "5")["lines"] == []


def test_a_time_that_is_none_belongs_to_the_line_before_it(tmp_path: Path, written: Path) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S") + ",001 edgekit: x"
    lines = [now, "2026-13-45 99:99:99,123 x", "2026-13-45T99:99:99+0000 supervisor: x"]
    written.write_text("\n".join(lines) + "\n")
    assert read(tmp_path, "--since", "600")["lines"] == lines


HINT = "Hint: You are currently not seeing messages from other users and the system."
NONE_OPENED = "No journal files were opened due to insufficient permissions."


@pytest.mark.parametrize(
    ("code", "said", "refused"),
    [
        (0, HINT, "may not read the journal"),
        (1, NONE_OPENED, "may not read the journal"),
        (1, "Failed to seek to cursor: Invalid argument", "journalctl ended with 1"),
        (2, "", "journalctl ended with 2"),
        (0, "", ""),
        (1, "", ""),
        (1, "No journal files were found.", ""),
    ],
)
def test_what_journalctl_says_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, refused: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "supervisor").write_text("systemd-system\n")
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\necho '-- No entries --'\necho '{said}' >&2\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if not refused:
        assert read(tmp_path, "--journal")["lines"] == []
        return
    with pytest.raises(RefusedLogError) as error:
        read(tmp_path, "--journal")
    assert refused in error.value.args[0]
    assert said[:70] in error.value.args[1]


def test_it_waits_for_a_line_and_not_longer(tmp_path: Path, written: Path) -> None:
    cursor = read(tmp_path)["cursor"]
    began = time.monotonic()
    assert read(tmp_path, "--after", cursor, "--wait", "1")["lines"] == []
    assert 0.9 < time.monotonic() - began < 15
    timer = threading.Timer(0.3, lambda: written.open("a").write(" line\n"))
    timer.start()
    assert read(tmp_path, "--after", cursor, "--wait", "20")["lines"] == ["half line"]
    timer.join()


def test_without_systemd_there_is_no_journal(tmp_path: Path) -> None:
    argv = [sys.executable, "-", str(tmp_path), "--journal"]
    done = subprocess.run(argv, input=READ_LOG.read_bytes(), capture_output=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["what"]) == (1, "this device has no journal of the agent")
    assert "--journal" in told["next"]


def test_a_time_is_read_as_a_user_writes_it() -> None:
    now = time.mktime((2026, 11, 30, 12, 0, 0, 0, 0, -1))
    told = {"90s": 90, "10m": 600, "2h": 7200, "3d": 259200, "2026-11-30T11:59": 60}
    told |= {"12000d": 999_999_999, "1900-01-01": 999_999_999}
    assert {text: seconds_ago(text, now) for text in told} == told
    for wrong in ("soon", "2026-11-30T13:00", "10 parsecs", "-5m"):
        with pytest.raises(UsageError):
            seconds_ago(wrong, now)

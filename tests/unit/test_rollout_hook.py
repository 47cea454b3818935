"""Hooks: real programs that succeed, fail, hang, flood, and leave processes behind."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from edgekit.core.digest import Digest
from edgekit.errors import UsageError
from edgekit.fleet.rollout import hook
from edgekit.fleet.rollout.hook import WaveFacts, check_hooks, check_names, run_hook
from edgekit.fleet.rollout.waves import RolloutPlan, Terms
from tests.tools import eventually

RELEASE = Digest.of(b"a release")
FACTS = WaveFacts(7, 2, ["pi-1", "pi-2"], RELEASE)


def trouble(folder: Path, script: str, seconds: float = 30.0, **more: threading.Event) -> str:
    return run_hook(["sh", "-c", script], FACTS, folder, seconds, **more).trouble


def test_a_hook_is_told_what_it_is_about(tmp_path: Path) -> None:
    script = 'echo "$EDGEKIT_ROLLOUT|$EDGEKIT_WAVE|$EDGEKIT_DEVICES|$EDGEKIT_RELEASE|$PWD" > told'
    assert trouble(tmp_path, script) == ""
    told = (tmp_path / "told").read_text().strip()
    assert told == f"7|2|pi-1 pi-2|{RELEASE}|{tmp_path}"


def test_names_that_no_variable_holds_are_refused_before_a_rollout(tmp_path: Path) -> None:
    """Linux starts no program with a variable of more than 128 KiB: a wave of thousands."""

    def plan(count: int, terms: Terms) -> RolloutPlan:
        names = [f"{number:064}" for number in range(count)]
        return RolloutPlan(RELEASE, [names], dict.fromkeys(names, "pi"), terms)

    check_names(plan(5000, Terms()))
    check_names(most := plan(2000, Terms(hook_after=["true"])))
    for wave in most.waves:
        assert run_hook(["true"], WaveFacts(7, 1, wave, RELEASE), tmp_path, 30.0).trouble == ""
    with pytest.raises(UsageError, match="wave 1 has too many devices for a hook") as caught:
        check_names(plan(2001, Terms(hook_before=["true"])))
    assert "`shares`" in caught.value.next_step


def test_no_shell_reads_the_words(tmp_path: Path) -> None:
    words = ["$HOME", "a b", "*", "; touch x"]
    program = tmp_path / "tell.sh"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > told\n')
    program.chmod(0o755)
    assert run_hook(["./tell.sh", *words], FACTS, tmp_path, 30.0).trouble == ""
    assert (tmp_path / "told").read_text().splitlines() == words


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo one >&2; echo 'the checkout is closed' >&2; exit 3", "the checkout is closed"),
        ("echo only on stdout; exit 1", "only on stdout"),
        ("exit 4", "it ended with exit code 4"),
        ("kill -9 $$", "signal 9 ended it"),
        ("printf 'red \\033[31mword\\n\\n' >&2; exit 1", "red [31mword"),
        ("echo fine >&2; exit 0", ""),
    ],
)
def test_the_last_line_of_stderr_is_the_trouble(tmp_path: Path, script: str, told: str) -> None:
    assert trouble(tmp_path, script) == told


def test_a_program_that_does_not_start_is_a_trouble(tmp_path: Path) -> None:
    found = run_hook(["./nothing.sh"], FACTS, tmp_path, 5.0).trouble
    assert found.startswith("./nothing.sh does not start")
    (tmp_path / "text").write_text("no program")
    assert "does not start" in run_hook(["./text"], FACTS, tmp_path, 5.0).trouble


def test_a_flood_neither_blocks_nor_fills_the_memory(tmp_path: Path) -> None:
    script = (
        "head -c 30000000 /dev/zero | tr '\\0' x; yes | head -c 3000000 >&2; echo >&2 end; exit 1"
    )
    assert trouble(tmp_path, script) == "end"
    long = trouble(tmp_path, "head -c 100000 /dev/zero | tr '\\0' y >&2; exit 1")
    assert long == "y" * hook.REASON_LETTERS


def gone(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_a_hook_past_its_deadline_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script = "sleep 60 & echo $! > child; echo 'waiting for the lab' >&2; wait"
    began = time.monotonic()
    assert trouble(tmp_path, script, 1.0) == "it took more than 1 s: waiting for the lab"
    assert time.monotonic() - began < 1 + hook.GRACE_SECONDS
    eventually(lambda: gone(tmp_path / "child"), 10)


def test_a_hook_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "GRACE_SECONDS", 0.3)
    script = "trap '' TERM; echo $$ > me; while :; do sleep 0.1; done"
    assert trouble(tmp_path, script, 0.5).startswith("it took more than 0.5 s")
    assert gone(tmp_path / "me")


def test_an_interrupted_hook_is_ended_at_once(tmp_path: Path) -> None:
    ended = threading.Event()
    threading.Timer(0.3, ended.set).start()
    began = time.monotonic()
    assert trouble(tmp_path, "echo $$ > me; sleep 60", ended=ended) == "it was interrupted"
    assert time.monotonic() - began < 10
    assert gone(tmp_path / "me")


def test_ctrl_c_in_the_wait_ends_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        eventually(lambda: (tmp_path / "me").exists() and (tmp_path / "me").read_text() != "", 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(hook, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trouble(tmp_path, "echo $$ > me; sleep 60")
    assert gone(tmp_path / "me")


def test_a_process_that_a_hook_leaves_behind_does_not_hold_the_rollout(tmp_path: Path) -> None:
    began = time.monotonic()
    assert trouble(tmp_path, "sleep 20 & echo $! > child; exit 0") == ""
    assert time.monotonic() - began < 10
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_a_hook_that_is_not_there_is_refused_before_the_rollout(tmp_path: Path) -> None:
    check_hooks(Terms(), tmp_path)
    check_hooks(Terms(hook_before=["true"], hook_after=["/bin/true"]), tmp_path)
    with pytest.raises(UsageError, match=r"hook_after: \./check\.sh is no program"):
        check_hooks(Terms(hook_after=["./check.sh"]), tmp_path)
    (tmp_path / "check.sh").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match="is no program"):
        check_hooks(Terms(hook_after=["./check.sh"]), tmp_path)
    (tmp_path / "check.sh").chmod(0o755)
    check_hooks(Terms(hook_after=["./check.sh"]), tmp_path)

"""Trials on a device: the real `activate` and supervisor, with an agent that does as it is told.

Only `Service`, which needs a model and a broker, is replaced; everything else is this package,
started the way a device starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release import activate as activation
from edgekit.agent.release.log import rotate
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.agent.release.trial import disk
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent
from edgekit.store import publish, replace_link
from tests.harness.box import BAD_PORT, Box, alive, config_bytes, eventually, make_root

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    root = make_root(tmp_path / "root")
    yield Box(root)
    Detached(root).stop()
    eventually(lambda: not processes_of(root), what="nothing of it runs")


@pytest.fixture
def good(box: Box) -> Digest:
    """A release that answers."""
    digest = box.stage("good first")
    code, answer = box.activate(digest)
    assert (code, answer["changed"]) == (0, True), answer
    return digest


def test_a_release_that_answers_is_good_and_a_second_activation_changes_nothing(
    box: Box, good: Digest
) -> None:
    box.answers(good)
    agent = box.agent
    code, answer = box.activate(good)
    assert (code, answer["changed"]) == (0, False)
    assert box.agent == agent


def test_a_release_whose_agent_ends_goes_back_with_the_reason(box: Box, good: Digest) -> None:
    bad = box.stage("dies")
    code, answer = box.activate(bad, config_bytes(queue_limit=3))
    assert code == 1
    assert "this model cannot be loaded" in answer["why"]
    assert good.short in answer["next"]
    box.answers(good)
    assert box.root.agent_config.read_bytes() == config_bytes()
    code, state = box.run("state")
    row = next(r for r in state["releases"] if r["digest"] == bad)
    assert row["state"] == "bad"
    assert "this model cannot be loaded" in row["reason"]


def test_a_release_that_never_answers_goes_back_at_its_deadline(box: Box, good: Digest) -> None:
    bad = box.stage("mute")
    code, answer = box.activate(bad, config_bytes(trial_seconds=1.0))
    assert code == 1
    assert "no answer within 1 s" in answer["why"]
    box.answers(good)
    assert box.release(bad).state == "bad"


def test_a_stop_during_the_way_back_misses_nobody(box: Box, good: Digest) -> None:
    bad = box.stage("dies")
    process = box.start("activate", bad, config=config_bytes())
    eventually(lambda: box.release(bad).tries == 1, what="the trial runs")
    process.kill()
    process.communicate(timeout=10)
    eventually(lambda: box.release(bad).state == "bad", what="it failed")
    Detached(box.root).stop()
    eventually(lambda: not processes_of(box.root), what="nothing of it runs")
    Detached(box.root).start()
    box.answers(good)


def processes_of(root: Root) -> list[str]:
    """Command lines that name this root."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return [line for line in lines if str(root.path) in line]


def test_a_bad_release_can_be_tried_again(box: Box, good: Digest) -> None:
    flaky = box.stage("dies")
    assert box.activate(flaky)[0] == 1
    (box.root.release(flaky) / "model" / "mode").write_text("good after all")
    assert box.activate(flaky)[0] == 0
    box.answers(flaky)


def test_a_first_release_that_fails_leaves_nothing_active(box: Box) -> None:
    code, answer = box.activate(box.stage("dies"))
    assert code == 1
    assert answer["next"] == "nothing runs on the device now"
    assert box.current is None


def test_a_configuration_that_cannot_work_is_undone_and_previous_stays(
    box: Box, good: Digest
) -> None:
    second = box.stage("good second")
    assert box.activate(second)[0] == 0
    code, answer = box.activate(second, config_bytes(BAD_PORT, trial_seconds=1.0))
    assert code == 1
    assert "its new configuration is not used" in answer["what"]
    box.answers(second)
    assert box.root.agent_config.read_bytes() == config_bytes()
    code, answer = box.run("rollback")
    assert (code, answer["release"]) == (0, good)


def test_a_restart_keeps_the_release_to_roll_back_to(box: Box, good: Digest) -> None:
    second = box.stage("good second")
    assert box.activate(second)[0] == 0
    assert box.run("stop")[0] == 0
    assert box.activate(second)[0] == 0
    assert box.root.linked(box.root.previous) == good


def test_a_supervisor_killed_during_the_trial_ends_on_the_old_release(
    box: Box, good: Digest
) -> None:
    slow = box.stage("slow")
    process = box.start("activate", slow, config=config_bytes())
    eventually(lambda: box.current == slow and Detached(box.root).pid(), what="the trial runs")
    eventually(lambda: box.release(slow).tries == 1, what="the supervisor has begun it")
    os.kill(box.supervisor, signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "failed its trial" in json.loads(out)["what"]
    box.answers(good)
    assert box.release(slow).state == "bad"


def test_an_activation_killed_during_the_trial_is_finished_by_the_device(
    box: Box, good: Digest
) -> None:
    slow = box.stage("slow")
    process = box.start("activate", slow, config=config_bytes())
    eventually(lambda: box.release(slow).tries == 1, what="the trial runs")
    process.kill()
    process.communicate(timeout=10)
    box.answers(slow)


@pytest.mark.parametrize("mode", ["good after all", "dies"])
def test_both_killed_during_the_trial_end_on_a_good_release_after_the_next_push(
    box: Box, good: Digest, mode: str
) -> None:
    slow = box.stage("slow")
    process = box.start("activate", slow, config=config_bytes())
    eventually(lambda: box.release(slow).tries == 1, what="the trial runs")
    process.kill()
    process.communicate(timeout=10)
    os.kill(box.supervisor, signal.SIGKILL)
    (box.root.release(slow) / "model" / "mode").write_text(mode)
    code, _ = box.activate(slow)
    assert code == (0 if mode == "good after all" else 1)
    box.answers(slow if code == 0 else good)


def test_a_supervisor_started_after_a_crash_in_the_trial_goes_back(box: Box, good: Digest) -> None:
    slow = box.stage("slow")
    process = box.start("activate", slow, config=config_bytes())
    eventually(lambda: box.release(slow).tries == 1, what="the trial runs")
    process.kill()
    process.communicate(timeout=10)
    os.kill(box.supervisor, signal.SIGKILL)
    eventually(lambda: Detached(box.root).pid() is None, what="the supervisor is gone")
    Detached(box.root).start()
    box.answers(good)
    assert box.release(slow).state == "bad"


def test_a_release_whose_agent_cannot_even_start_goes_back(box: Box, good: Digest) -> None:
    broken = box.stage("good but broken")
    (box.root.release(broken) / "agent").unlink()
    (box.root.release(broken) / "agent" / "edgekit").mkdir(parents=True)
    code, answer = box.activate(broken)
    assert code == 1
    assert "supervisor did not start" in answer["why"]
    box.answers(good)
    assert box.release(broken).state == "bad"


class KilledError(Exception):
    """Stands for the end of the process at this very step."""


@pytest.mark.parametrize("kind", ["release", "config"])
@pytest.mark.parametrize("step", range(6))
def test_an_activation_killed_at_any_step_leaves_a_whole_good_release(
    box: Box, good: Digest, monkeypatch: pytest.MonkeyPatch, step: int, kind: str
) -> None:
    target = good if kind == "config" else box.stage("good second")
    left = step

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(f"{disk.__name__}.publish", dying(publish))
    monkeypatch.setattr(f"{disk.__name__}.replace_link", dying(replace_link))
    monkeypatch.setattr(Releases, "begin", dying(Releases.begin))
    monkeypatch.setattr(Detached, "reload", dying(Detached.reload))
    try:
        activation.activate(box.root, target, Detached(box.root), config_bytes(queue_limit=3))
    except KilledError:
        pass
    else:
        assert step == 5 or (kind == "config" and step == 4)
    monkeypatch.undo()
    if Detached(box.root).pid() is None:
        Detached(box.root).start()
    current = box.current
    assert current in (good, target)
    assert current is not None
    box.answers(current)


@pytest.mark.parametrize("step", range(4))
def test_a_way_back_that_is_killed_is_gone_to_its_end(box: Box, good: Digest, step: int) -> None:
    """The record says `bad`; links and configuration may or may not have followed."""
    bad = box.stage("mute")
    assert box.run("stop")[0] == 0
    releases = Releases(box.root.path)
    releases.move(bad, ReleaseEvent.ACTIVATE)
    box.root.previous.symlink_to(f"releases/{good.hex}")
    if step < 2:
        box.root.previous_config.write_bytes(config_bytes())
        box.root.agent_config.write_bytes(config_bytes(BAD_PORT))
    box.root.current.unlink()
    box.root.current.symlink_to(f"releases/{(good if step == 3 else bad).hex}")
    if step > 0:
        releases.move(bad, ReleaseEvent.FAILED, "it never answered")
    else:
        releases.count_try(bad)
    Detached(box.root).start()
    box.answers(good)
    assert box.root.agent_config.read_bytes() == config_bytes()
    assert box.release(bad).state == "bad"


def test_an_agent_that_is_killed_starts_again(box: Box, good: Digest) -> None:
    first = box.agent
    os.kill(first, signal.SIGKILL)
    eventually(
        lambda: box.root.ready_file.exists() and str(first) not in box.root.ready_file.read_text(),
        what="another agent answers",
    )
    assert "the agent ended with -9; it starts again in 1 s" in box.root.log_file.read_text()
    box.answers(good)


def test_an_agent_whose_place_was_taken_stays_down_and_says_why(box: Box, good: Digest) -> None:
    code, answer = box.activate(box.stage("taken"))
    assert (code, answer["state"]) == (0, "good")
    eventually(lambda: Detached(box.root).pid() is None, what="its supervisor ends")
    log = box.root.log_file.read_text()
    assert "serve: another client has this name" in log
    assert "the agent stays down" in log
    assert "Traceback" not in log


def test_an_agent_does_not_outlive_its_supervisor(box: Box, good: Digest) -> None:
    agent = box.agent
    os.kill(box.supervisor, signal.SIGKILL)
    eventually(lambda: not alive(agent), what="the agent is gone")
    assert box.activate(good)[0] == 0
    box.answers(good)


def test_a_floor_of_tokens_per_second_needs_no_golden_prompts(box: Box, good: Digest) -> None:
    """Without a check, a bundle of `--no-golden` was good however slow it was."""
    slow = box.stage("sluggish")
    code, answer = box.activate(slow, config_bytes(min_tokens_per_second=2.5))
    assert (code, "0.01 tokens/s, the floor is 2.5" in answer["why"]) == (1, True), answer
    box.answers(good)
    fast = box.stage("good fast")
    assert box.activate(fast, config_bytes(min_tokens_per_second=2.5))[0] == 0
    box.answers(fast)


def row_of(state: dict[str, Any], digest: Digest) -> dict[str, Any]:
    return next(row for row in state["releases"] if row["digest"] == digest)


@pytest.mark.parametrize(
    ("mode", "more", "reason"),
    [
        ("rubbish", {}, "the recorded one at 20% of 4 certain positions, 95% are needed"),
        ("sluggish", {"min_tokens_per_second": 2.5}, "0.01 tokens/s, the floor is 2.5"),
        ("greedy", {"max_rss_bytes": 10**9}, "1,099,511.6 MB of memory, the cap is 1,000.0 MB"),
        ("fades", {}, "the agent ended within the soak of 3 s after its answer"),
        ("unscored", {"trial_seconds": 1.0}, "no score of its golden prompts within 1 s"),
    ],
)
def test_a_sick_release_is_rolled_back_by_the_device_alone(
    box: Box, good: Digest, mode: str, more: dict[str, Any], reason: str
) -> None:
    older = good
    second = box.stage("good second")
    assert box.activate(second)[0] == 0
    bad = box.stage(mode, soak_seconds=3.0)
    process = box.start("activate", bad, config=config_bytes(**more))
    eventually(lambda: box.release(bad).tries == 1, what="the trial runs")
    process.kill()  # the controller is gone
    process.communicate(timeout=10)
    eventually(lambda: box.release(bad).state == "bad", what="it failed")
    box.answers(second)
    assert reason in box.release(bad).reason
    _, state = box.run("state")
    assert reason in state["why"]
    assert (state["current"], state["previous"]) == (second, older), "the older one is lost"
    assert not box.root.older.is_symlink()


def test_a_release_soaks_before_it_is_good_and_says_how_long(box: Box, good: Digest) -> None:
    soaks = box.stage("soaks", soak_seconds=2.0)
    code, answer = box.activate(soaks)
    assert (code, answer["state"], answer["changed"]) == (0, "trial", True), answer
    assert 0 < answer["soak_seconds"] <= 2.0
    assert 0 < answer["silent_seconds"] < 15.0
    _, state = box.run("state")
    assert state["why"] == "it answers and soaks"
    code, again = box.activate(soaks)
    assert (code, again["changed"], again["state"]) == (0, False, "trial"), "it does not begin anew"
    box.answers(soaks)
    assert box.root.linked(box.root.previous) == good
    eventually(lambda: not box.root.trial_file.exists(), what="the agent stops reporting")
    assert box.run("state")[1]["why"] == "it passed its trial"


def faster(box: Box, retry_seconds: float = 1.0) -> None:
    """A device whose back-off is short, and whose broker is away."""
    (box.root.path / "run" / "offline").touch()
    folder = box.root.trees / "agent" / "edgekit" / "agent" / "release"
    for name, line, short in (
        (
            "trial/demands.py",
            "RETRY_SECONDS = (60.0, 120.0, ",
            f"RETRY_SECONDS = ({retry_seconds}, 1.0, 1.0, ",
        ),
        (
            "supervisor/watch.py",
            "BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, ",
            "BACKOFF_SECONDS = (0.1, 0.1, 0.1, 0.1, ",
        ),
        ("supervisor/watch.py", "CHECK_SECONDS = 5.0", "CHECK_SECONDS = 0.2"),
    ):
        text = (folder / name).read_text()
        assert line in text
        (folder / name).write_text(text.replace(line, short))


def cut_off(box: Box) -> tuple[Digest, Path]:
    """A good release that runs and has lost its broker, and the file that keeps it away."""
    offline = box.root.path / "run" / "offline"
    offline.unlink(missing_ok=True)
    release = box.stage("cutoff", soak_seconds=0.0)
    assert box.activate(release)[0] == 0
    offline.touch()
    eventually(lambda: b"false" in box.root.broker_file.read_bytes(), what="the broker is gone")
    return release, offline


def test_a_release_that_reaches_no_broker_is_unproven_and_tried_again(box: Box) -> None:
    faster(box)
    good = box.stage("good first")
    assert box.activate(good)[0] == 0
    cut_off = box.stage("cutoff", soak_seconds=0.0)
    code, answer = box.activate(cut_off, config_bytes(queue_limit=3, trial_seconds=1.0))
    assert code == 1
    assert "is unproven" in answer["what"]
    assert "no connection to the broker 127.0.0.1:1883 within 1 s" in answer["why"]
    assert good.short in answer["next"]
    assert "tries the new one again in 1 s" in answer["next"]
    _, state = box.run("state")
    assert state["unproven"]["digest"] == cut_off
    assert row_of(state, cut_off)["state"] == "trial"
    assert "is unproven: no connection" in state["why"]
    waits = Releases(box.root.path).unproven
    eventually(lambda: (row := waits()) and row.tries >= 2, what="it is tried again")
    (box.root.path / "run" / "offline").unlink()
    box.answers(cut_off)
    assert waits() is None
    assert b"queue_limit = 3" in box.root.agent_config.read_bytes()
    assert box.root.linked(box.root.previous) == good


def test_an_unproven_configuration_waits_while_the_old_one_serves(box: Box) -> None:
    faster(box, retry_seconds=6.0)
    release, offline = cut_off(box)
    other = config_bytes(queue_limit=3, trial_seconds=1.0)
    code, answer = box.activate(release, other)
    assert (code, "is unproven" in answer["what"]) == (1, True)
    assert box.root.agent_config.read_bytes() == config_bytes()
    assert box.release(release).state == "good"
    offline.unlink()
    eventually(lambda: box.root.agent_config.read_bytes() == other, what="it is tried again")
    box.answers(release)


def test_a_rollback_while_a_configuration_is_unproven_stays_on_the_one_before_it(box: Box) -> None:
    faster(box, retry_seconds=20.0)  # on a slow machine the next try begins before the rollback
    assert box.activate(box.stage("good first"))[0] == 0
    release, offline = cut_off(box)
    other = config_bytes(queue_limit=3, trial_seconds=1.0)
    assert box.activate(release, other)[0] == 1
    code, answer = box.run("rollback")
    assert code == 0, answer
    assert (answer["release"], answer["changed"]) == (release, False)
    assert Releases(box.root.path).unproven() is None
    assert not box.root.next_config.exists()
    offline.unlink()  # the broker is back: it would be good now
    time.sleep(21.0)
    box.answers(release)
    assert box.root.agent_config.read_bytes() == config_bytes()


def test_a_rollback_of_a_configuration_on_trial_keeps_the_release(box: Box) -> None:
    """The release before it is two steps back: nobody asked for that."""
    faster(box)
    assert box.activate(box.stage("good first"))[0] == 0
    release, offline = cut_off(box)
    assert box.activate(release, config_bytes(queue_limit=3, trial_seconds=4.0))[0] == 1
    eventually(lambda: box.release(release).state == "trial", what="it is tried again")
    code, answer = box.run("rollback")
    assert code == 0, answer
    assert (answer["release"], answer["state"]) == (release, "good")
    assert (box.release(release).state, Releases(box.root.path).unproven()) == ("good", None)
    offline.unlink()
    box.answers(release)
    assert box.root.agent_config.read_bytes() == config_bytes()
    assert not any(each.exists() for each in (box.root.next_config, box.root.good_config))


def test_another_push_ends_an_unproven_release(box: Box) -> None:
    faster(box)
    first = box.stage("good first")
    assert box.activate(first)[0] == 0
    cut_off = box.stage("cutoff", soak_seconds=0.0)
    assert box.activate(cut_off, config_bytes(queue_limit=3, trial_seconds=1.0))[0] == 1
    second = box.stage("good second")
    assert box.activate(second, config_bytes(queue_limit=4))[0] == 0
    box.answers(second)
    assert (box.release(cut_off).state, Releases(box.root.path).unproven()) == ("staged", None)
    assert b"queue_limit = 4" in box.root.agent_config.read_bytes()
    assert box.root.linked(box.root.previous) == first


def test_who_asks_for_what_runs_ends_an_unproven_release(box: Box) -> None:
    """Else the device would leave the release of the last push for that of the one before."""
    faster(box, retry_seconds=1.0)
    good = box.stage("good first")
    assert box.activate(good)[0] == 0
    cut_off = box.stage("cutoff", soak_seconds=0.0)
    assert box.activate(cut_off, config_bytes(queue_limit=3, trial_seconds=1.0))[0] == 1
    code, answer = box.activate(good, config_bytes())
    assert (code, answer["changed"]) == (0, False)
    assert (box.release(cut_off).state, Releases(box.root.path).unproven()) == ("staged", None)
    assert not box.root.next_config.exists()
    (box.root.path / "run" / "offline").unlink()  # the broker is back: it would be good now
    time.sleep(2.5)
    box.answers(good)
    assert box.root.linked(box.root.current) == good


def test_a_rollback_while_a_release_is_unproven_stays_on_the_one_before_it(box: Box) -> None:
    faster(box)
    first = box.stage("good first")
    assert box.activate(first)[0] == 0
    good = box.stage("good second")
    assert box.activate(good)[0] == 0
    cut_off = box.stage("cutoff", soak_seconds=0.0)
    assert box.activate(cut_off, config_bytes(trial_seconds=1.0))[0] == 1
    code, answer = box.run("rollback")
    assert (code, answer["release"], answer["changed"]) == (0, good, False)
    assert (box.release(cut_off).state, Releases(box.root.path).unproven()) == ("staged", None)
    assert box.root.linked(box.root.current) == good
    assert box.root.linked(box.root.previous) == first


def test_a_good_release_that_crashes_again_and_again_goes_back(box: Box) -> None:
    faster(box)
    good = box.stage("good first")
    assert box.activate(good)[0] == 0
    crashes = box.stage("crashes")
    assert box.activate(crashes)[0] == 0
    eventually(lambda: box.release(crashes).state == "bad", what="it is given up")
    assert "5 times in a row" in box.release(crashes).reason
    box.answers(good)


def test_a_push_during_a_trial_of_a_configuration_keeps_the_good_one(
    box: Box, good: Digest
) -> None:
    process = box.start("activate", good, config=config_bytes(BAD_PORT, trial_seconds=30.0))
    eventually(lambda: box.release(good).tries == 1, what="the trial runs")
    process.kill()
    process.communicate(timeout=10)
    code, answer = box.activate(good, config_bytes(BAD_PORT, trial_seconds=1.0, queue_limit=3))
    assert code == 1, answer
    assert "its new configuration is not used" in answer["what"]
    box.answers(good)
    assert box.root.agent_config.read_bytes() == config_bytes()


@pytest.mark.parametrize("mode", ["good second", "dies"])
def test_a_push_of_another_release_during_a_trial_of_a_configuration(
    box: Box, good: Digest, mode: str
) -> None:
    process = box.start("activate", good, config=config_bytes(BAD_PORT, trial_seconds=30.0))
    eventually(lambda: box.release(good).tries == 1, what="the trial runs")
    process.kill()
    process.communicate(timeout=10)
    second = box.stage(mode)
    assert box.activate(second, config_bytes(queue_limit=3))[0] == (mode == "dies")
    box.answers(good if mode == "dies" else second)
    if mode == "dies":
        assert box.root.agent_config.read_bytes() == config_bytes()


def test_a_device_whose_processes_were_killed_does_not_say_that_it_answers(
    box: Box, good: Digest
) -> None:
    _, state = box.run("state")
    assert (state["answering"], state["agent_pid"]) == (True, box.agent)
    for pid in (box.supervisor, box.agent):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes_of(box.root), what="nothing of it runs")
    assert box.root.ready_file.exists(), "the file is left behind"
    _, state = box.run("state")
    assert (state["answering"], state["supervisor_pid"], state["model"]) == (False, None, None)


def test_refusals_are_told_and_bounded(box: Box, good: Digest) -> None:
    releases = Releases(box.root.path)
    for number in range(30):
        releases.refused(good, f"refusal {number}", "its metadata is older " + "x" * 2000)
    _, state = box.run("state")
    assert [refusal["what"] for refusal in state["refusals"]] == [
        f"refusal {number}" for number in reversed(range(10, 30))
    ]
    assert len(state["refusals"][0]["why"]) == 500


def test_stop_lets_the_agent_drain_and_leaves_nothing(box: Box) -> None:
    assert box.activate(box.stage("busy"))[0] == 0
    agent, supervisor = box.agent, box.supervisor
    assert box.run("stop") == (0, {"stopped": True})
    assert "drained" in box.root.log_file.read_text()
    eventually(lambda: not alive(agent) and not alive(supervisor), what="both are gone")
    assert box.run("stop")[0] == 0


def test_one_device_has_one_supervisor_and_looking_does_not_disturb_it(
    box: Box, good: Digest
) -> None:
    supervisor = box.supervisor
    process = box.start("supervise")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"supervised already" in err
    assert box.supervisor == supervisor
    assert box.run("stop")[0] == 0
    box.root.ready_file.unlink(missing_ok=True)
    process = box.start("activate", good, config=config_bytes())
    while process.poll() is None:
        Detached(box.root).pid()  # as often as can be: each look takes the lock for an instant
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_the_log_is_rotated_under_writers_that_keep_it_open(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with log.open("a") as writer:
        writer.write("old\n" * 300_000)
        writer.flush()
        rotate(log)
        writer.write("new\n")
    assert log.read_text() == "new\n"
    assert (tmp_path / "agent.log.1").stat().st_size == 1_200_000
    rotate(log)
    assert log.read_text() == "new\n"


def test_a_second_update_is_told_while_one_is_at_work(box: Box, good: Digest) -> None:
    slow = box.stage("slow")
    process = box.start("activate", slow, config=config_bytes())
    eventually(lambda: box.release(slow).tries == 1, what="the trial runs")
    code, answer = box.activate(good)
    assert code == 1
    assert "another update" in answer["what"]
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_key_that_this_agent_does_not_know_is_left_to_the_release_to_judge(
    box: Box, good: Digest
) -> None:
    newer = b"words_per_answer = 7\n" + config_bytes()
    # This release's agent is none that knows it: it says so in its trial, and the old one is back.
    second = box.stage("good second")
    code, answer = box.activate(second, newer)
    assert code == 1
    assert "words_per_answer" in answer["why"]
    box.answers(good)
    assert box.root.agent_config.read_bytes() == config_bytes()
    config = box.root.trees / "agent" / "edgekit" / "core" / "config.py"
    field = "    threads: int = 0"
    text = config.read_text()
    assert field in text
    trees = box.root.trees / "newer"
    shutil.copytree(box.root.trees / "agent", trees)
    (trees / "edgekit" / "core" / "config.py").write_text(
        text.replace(field, f"    words_per_answer: int = 0\n{field}")
    )
    third = box.stage("good third")
    (box.root.release(third) / "agent").unlink()
    (box.root.release(third) / "agent").symlink_to("../../trees/newer")
    code, answer = box.activate(third, newer)
    assert (code, answer["changed"]) == (0, True), answer
    box.answers(third)
    assert box.root.agent_config.read_bytes() == newer


@pytest.mark.parametrize("line", [b"trial_seconds = ", b'queue_limit = "many"\nnew = 1\n'])
def test_a_broken_configuration_is_refused_while_the_old_release_answers(
    box: Box, good: Digest, line: bytes
) -> None:
    agent = box.agent
    code, answer = box.activate(box.stage("good second"), b'device = "box"\n' + line)
    assert (code, answer["what"]) == (2, "agent.toml is not valid")
    assert (box.agent, box.current) == (agent, good)
    box.answers(good)

"""A device without a battery: its clock is at 1970 after each boot, then somebody sets it.

The rest of the clock is tested where it belongs: metadata in test_trust_clocks, the lease in
test_release_lease, the upkeep in test_release_scrub.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from edgekit.agent.release.describe import describe
from edgekit.agent.release.root import Root
from edgekit.agent.release.space.retention import kept_releases
from edgekit.agent.release.space.survey import survey
from edgekit.agent.release.state import Releases, TrialRow
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.agent.release.upkeep.scrub import Scrubbed, last, scrub
from edgekit.agent.serve.session.events import Tick
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent
from edgekit.store import replace_link
from tests.harness.held import activated
from tests.harness.session import Agent, replies

NOW, LOST, WRONG = 1.8e9, 100.0, 4.1e9  # 2027, 1970 after a boot, 2099
ONE, TWO, THREE = (Digest.of(name) for name in (b"one", b"two", b"three"))


class Clock:
    """The wall clock of the device."""

    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        self.now += 0.01
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", made.time)
    return made


def test_answers_carry_the_time_that_was_set_after_the_start() -> None:
    agent = Agent().ready()
    agent.prompt()
    agent.handle(Tick(NOW))
    final = replies(agent.finishes())[-1]
    assert json.loads(final.payload)["created"] == NOW + 1000


@pytest.mark.parametrize("reset", [LOST, WRONG])
def test_why_names_the_release_that_failed_whatever_the_clock_said(
    clock: Clock, tmp_path: Path, reset: float
) -> None:
    """By times, a failure at 1970 lies before everything: `it passed its trial`."""
    root, releases = Root(tmp_path), Releases(tmp_path)
    root.create()
    for digest, end in ((ONE, ReleaseEvent.ANSWERED), (TWO, ReleaseEvent.FAILED)):
        releases.stage(digest, digest.short, "1")
        releases.begin(digest, connected=True)
        clock.now = reset if digest == TWO else NOW
        releases.move(digest, end, "its disk is slow" if digest == TWO else "")
    replace_link(root.current, f"releases/{ONE.hex}")
    told = describe(root, Detached(root))
    assert told["why"] == f"release {TWO.short} failed: its disk is slow"
    releases.stage(THREE, "three", "1")
    releases.begin(THREE, connected=True)
    clock.now = NOW if reset == WRONG else clock.now
    releases.move(THREE, ReleaseEvent.ANSWERED)
    replace_link(root.current, f"releases/{THREE.hex}")
    assert describe(root, Detached(root))["why"] == "it passed its trial"


@pytest.mark.parametrize("reset", [LOST, WRONG])
def test_the_release_that_was_staged_last_stays_whatever_the_clock_said(
    clock: Clock, tmp_path: Path, reset: float
) -> None:
    root, releases = Root(tmp_path), Releases(tmp_path)
    root.create()
    clock.now = reset if reset == WRONG else NOW
    for digest in (ONE, TWO):
        releases.stage(digest, digest.short, "1")
        root.release(digest).mkdir()
        clock.now = NOW if reset == WRONG else reset
    assert [row.digest for row in releases.all()] == [TWO, ONE]
    assert kept_releases(survey(root)) == {TWO: "staged"}


def test_a_file_of_an_earlier_agent_is_sorted_by_its_times(clock: Clock, tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    for digest in (ONE, TWO, THREE):
        releases.stage(digest, digest.short, "1")
    with releases._open() as db:
        db.execute("DELETE FROM changes")
    assert [row.digest for row in releases.all()] == [THREE, TWO, ONE]


@pytest.mark.parametrize(("now", "left"), [(NOW + 25, 5.0), (LOST, 60.0), (WRONG, 0.0)])
def test_a_soak_is_never_said_to_be_longer_than_its_trial(now: float, left: float) -> None:
    assert TrialRow(ONE, NOW - 30, True, None, NOW + 30).soak_left(now) == left


def test_a_scrub_says_what_it_found_whatever_the_clock_said(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sync", "fsync"):
        monkeypatch.setattr(os, name, lambda *_: None)
    root = Root(tmp_path / "root")
    root.create()
    current = activated(root, "1")
    file = root.store.path(current)
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[:-1] + b"!")
    times = iter([WRONG])
    done = scrub(root, 0, lambda: next(times, NOW))
    assert [each.at >= done.started for each in done.found] == [True], "found after it was set"
    root.store.put(whole)
    clean = scrub(root, 0, lambda: NOW)
    assert [each for each in clean.found if each.at >= clean.started] == [], "found before"
    assert isinstance(last(root), Scrubbed)

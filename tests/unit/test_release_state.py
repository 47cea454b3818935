"""`state.db` across versions: what a later agent added is neither an error nor lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Release, Releases
from edgekit.agent.release.trial import disk
from edgekit.agent.release.trial.events import KeepRunning
from edgekit.agent.release.trial.machine import Trial
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.errors import EdgekitError

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")


def later_agent(root: Path, *statements: str) -> None:
    """What a later version does to the file."""
    with sqlite3.connect(root / "state.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def value(root: Path, query: str) -> object:
    with sqlite3.connect(root / "state.db") as database:
        (found,) = database.execute(query).fetchone()
    database.close()
    return found


def found(releases: Releases, digest: Digest) -> Release:
    release = releases.get(digest)
    assert release is not None
    return release


def test_a_column_of_a_later_agent_is_passed_over_and_kept(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    releases.stage(ONE, "one", "1")
    later_agent(
        tmp_path,
        "ALTER TABLE releases ADD COLUMN signed_by TEXT NOT NULL DEFAULT ''",
        "UPDATE releases SET signed_by = 'alice'",
    )
    assert found(releases, ONE).to_dict().keys() == {
        *("digest", "name", "version", "state", "since", "tries", "reason")
    }
    releases.stage(TWO, "two", "1")
    for event in (ReleaseEvent.ACTIVATE, ReleaseEvent.FAILED):
        releases.move(ONE, event, "it failed" if event is ReleaseEvent.FAILED else "")
    releases.stage(ONE, "one", "2")
    assert (found(releases, ONE).version, found(releases, ONE).reason) == ("2", "")
    assert value(tmp_path, f"SELECT signed_by FROM releases WHERE digest = '{ONE}'") == "alice"
    assert value(tmp_path, f"SELECT signed_by FROM releases WHERE digest = '{TWO}'") == ""


def test_the_order_of_the_columns_does_not_matter(tmp_path: Path) -> None:
    later_agent(
        tmp_path,
        "CREATE TABLE releases (rollout TEXT, reason TEXT NOT NULL DEFAULT '', state TEXT,"
        " tries INTEGER NOT NULL DEFAULT 0, since REAL, version TEXT, name TEXT,"
        " digest TEXT PRIMARY KEY)",
    )
    releases = Releases(tmp_path)
    releases.stage(ONE, "one", "1")
    assert releases.move(ONE, ReleaseEvent.ACTIVATE) is ReleaseState.TRIAL
    assert releases.count_try(ONE) == 1
    assert found(releases, ONE).name == "one"


@pytest.mark.parametrize("event", [ReleaseEvent.STAGE, ReleaseEvent.ACTIVATE])
def test_a_release_in_a_state_of_a_later_agent_can_be_staged_and_tried(
    tmp_path: Path, event: ReleaseEvent
) -> None:
    releases = Releases(tmp_path)
    releases.stage(ONE, "one", "1")
    later_agent(tmp_path, "UPDATE releases SET state = 'paused'")
    assert found(releases, ONE).to_dict()["state"] == "paused"
    if event is ReleaseEvent.STAGE:
        releases.stage(ONE, "one", "1")
        assert found(releases, ONE).state == ReleaseState.STAGED
    else:
        assert releases.move(ONE, event) is ReleaseState.TRIAL


def test_a_release_in_a_state_of_a_later_agent_gets_no_verdict_without_a_trial(
    tmp_path: Path,
) -> None:
    releases = Releases(tmp_path)
    releases.stage(ONE, "one", "1")
    later_agent(tmp_path, "UPDATE releases SET state = 'paused'")
    with pytest.raises(EdgekitError, match="cannot answered"):
        releases.move(ONE, ReleaseEvent.ANSWERED)
    assert found(releases, ONE).state == "paused"


def test_a_current_release_in_a_state_of_a_later_agent_goes_on_running(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.create()
    Releases(tmp_path).stage(ONE, "one", "1")
    later_agent(tmp_path, "UPDATE releases SET state = 'paused'")
    root.current.symlink_to(f"releases/{ONE.hex}")
    on_disk = disk.found(root)
    assert (on_disk.release, on_disk.state) == (ONE, None)
    assert Trial().handle(on_disk, 0.0) == (KeepRunning(),)


def test_records_that_cannot_be_read_are_an_error_by_name(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(EdgekitError, match=r"state\.db cannot be read or written"):
        Releases(tmp_path).stage(ONE, "one", "1")


def test_a_record_is_kept_over_a_power_cut_once_it_is_made(tmp_path: Path) -> None:
    with Releases(tmp_path)._open() as database:
        extra = 3  # sqlite.org/pragma.html#pragma_synchronous
        assert database.execute("PRAGMA synchronous").fetchone() == (extra,)


def test_a_rollback_that_was_cut_leaves_the_previous_release_good(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    for digest in (ONE, TWO):
        releases.stage(digest, "one", "1")
        releases.begin(digest, connected=True)
        releases.move(digest, ReleaseEvent.ANSWERED)
    releases.begin(ONE, connected=True, previous=ONE)  # and the links do not move
    releases.begin(TWO, connected=True, previous=ONE)
    assert found(releases, ONE).state == ReleaseState.GOOD
    assert found(releases, TWO).state == ReleaseState.TRIAL

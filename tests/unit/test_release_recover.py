"""A card that loses blocks of `state.db` keeps no device down; no release is lost or forgotten."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.agent.release.activate import rollback
from edgekit.agent.release.describe import describe
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.state import Releases
from edgekit.agent.release.statefile import StateFileError
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.agent.release.trial import disk
from edgekit.agent.release.trial.events import KeepRunning
from edgekit.agent.release.trial.machine import Trial
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent
from edgekit.errors import EdgekitError
from edgekit.store import replace_link
from tests.harness.box import Box

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "another file": lambda _: b"a file of another program " * 400,
    "its header alone": lambda data: data[:100],
    "its first page alone": lambda data: data[:4096],
    "not its end": lambda data: data[: len(data) - 4096],
    "a block of zeros": lambda data: data[:4096] + bytes(4096) + data[8192:],
    "no header": lambda data: bytes(512) + data[512:],
}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A device with a good release, one to go back to, and one that is staged."""
    made = Root(tmp_path / "root")
    made.create()
    return made


def filled(root: Root) -> list[Digest]:
    box, releases = Box(root), Releases(root.path)
    digests = [box.stage(f"good {number}") for number in range(3)]
    for digest, link in zip(digests, (root.previous, root.current), strict=False):
        releases.begin(digest, connected=True)
        releases.move(digest, ReleaseEvent.ANSWERED)
        Counters(root.path).good(digest)
        replace_link(link, f"releases/{digest.hex}")
    return digests


def states(root: Root) -> dict[Digest, str]:
    return {row.digest: row.state for row in Releases(root.path).all()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_recorded_anew_and_what_runs_goes_on(root: Root, damage: str) -> None:
    """Before, each verb and each start ended with `file is not a database`, for ever."""
    digests = filled(root)
    before, highest = states(root), Counters(root.path).highest()
    file = root.path / "state.db"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    damaged = file.read_bytes()
    found = disk.found(root)
    assert (found.release, found.state) == (digests[1], "good")
    assert Trial().handle(found, 0.0)[-1] == KeepRunning()
    assert states(root) == before == dict(zip(digests, ("good", "good", "staged"), strict=True))
    assert Counters(root.path).highest() == highest > 0, "a downgrade is refused as before"
    assert (root.path / "state.db.broken").read_bytes() == damaged
    assert {row.name for row in Releases(root.path).all()} == {"good 0", "good 1", "good 2"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_a_power_cut_emptied_is_no_new_device(root: Root, gone: bool) -> None:
    """SQLite takes a file of zero bytes for a new database: every state and counter was lost."""
    digests = filled(root)
    before, highest = states(root), Counters(root.path).highest()
    file = root.path / "state.db"
    file.unlink() if gone else file.write_bytes(b"")
    assert Counters(root.path).highest() == highest > 0, "a downgrade is refused as before"
    found = disk.found(root)
    assert (found.release, found.state) == (digests[1], "good")
    assert states(root) == before


def test_a_device_without_a_release_gets_no_file_by_being_asked(root: Root) -> None:
    assert Releases(root.path).all() == []
    assert Counters(root.path).highest() == 0
    assert not (root.path / "state.db").exists()


@pytest.mark.parametrize("sign", ["older", "etc/agent.toml.good", "run/trial.json"])
def test_what_was_on_trial_has_not_passed_it(root: Root, sign: str) -> None:
    digests = filled(root)
    if sign == "older":
        replace_link(root.older, f"releases/{digests[2].hex}")
    else:
        (root.path / sign).touch()
    (root.path / "state.db").write_bytes(b"no database" * 1000)
    assert states(root)[digests[1]] == "trial"
    row = next(row for row in Releases(root.path).all() if row.digest == digests[1])
    assert row.tries == 1, "the next supervisor goes back"
    trial = Releases(root.path).trial()
    assert trial is not None
    assert trial.digest == digests[1]


def test_a_disk_that_cannot_be_read_or_is_full_is_no_damage(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(root)
    whole = (root.path / "state.db").read_bytes()
    (root.path / "state.db").rename(root.path / "kept")
    (root.path / "state.db").mkdir()
    with pytest.raises(StateFileError):
        Releases(root.path).all()
    (root.path / "state.db").rmdir()
    (root.path / "kept").rename(root.path / "state.db")
    with sqlite3.connect(root.path / "state.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("edgekit.agent.release.statefile.BUSY_SECONDS", 0.05)
        with pytest.raises(StateFileError, match="cannot be read or written"):
            Releases(root.path).all()
    other.close()
    assert (root.path / "state.db").read_bytes() == whole
    assert not (root.path / "state.db.broken").exists()


def test_folders_and_metadata_that_cannot_be_read_are_left_out(root: Root) -> None:
    digests = filled(root)
    (root.path / "releases" / "lost+found").mkdir()
    (root.path / "releases" / ("f" * 64)).mkdir()
    (root.release(digests[2]) / "bundle.json").write_bytes(b"[" * 100_000)
    (root.path / "etc/trust/trusted.json").write_bytes(b"[" * 100_000)
    shutil.rmtree(root.release(digests[0]))
    (root.path / "state.db").write_bytes(b"no database" * 1000)
    assert states(root) == {digests[1]: "good"}
    assert Counters(root.path).highest() == 0


def test_a_row_that_no_edgekit_has_written_is_passed_over(root: Root) -> None:
    digests = filled(root)
    with Releases(root.path)._open() as db:
        db.execute("INSERT INTO releases VALUES ('odd', 'n', 'v', 'staged', 1.0, 0, '')")
        db.execute("INSERT INTO unproven VALUES ('odd', 'x', 'y', 5, 1)")
        db.execute("UPDATE trials SET began = 'x'")
        db.execute("UPDATE releases SET since = 'when' WHERE digest = ?", (digests[2],))
    releases = Releases(root.path)
    assert states(root) == {digests[0]: "good", digests[1]: "good"}
    assert (releases.trial(), releases.unproven()) == (None, None)
    assert disk.found(root).release == digests[1]


@pytest.mark.parametrize("what", ["nothing", "elsewhere", "a file", "a folder"])
@pytest.mark.parametrize("name", ["previous", "older"])
def test_a_link_that_leads_to_no_release_is_no_way_back(root: Root, name: str, what: str) -> None:
    """A trial that failed would make it `current`, and nothing would run any more."""
    digests = filled(root)
    link = root.path / name
    link.unlink(missing_ok=True)
    match what:
        case "nothing":
            link.symlink_to("releases/" + "0" * 64)
        case "elsewhere":
            link.symlink_to("/etc")
        case "a file":
            link.write_text("x")
        case _:
            link.mkdir()
    found = disk.found(root)
    assert found.release == digests[1]
    assert getattr(found, name) is None
    assert describe(root, Detached(root))["current"] == digests[1]
    if name == "previous":
        with pytest.raises(EdgekitError, match="no previous release"):
            rollback(root, Detached(root))
    assert Trial().handle(found, 0.0)[-1] == KeepRunning()


def test_a_disk_that_cannot_read_a_link_says_nothing_about_it(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken as no link, a moment's error would leave a device with nothing to run."""
    filled(root)

    def fails(_: Path) -> Path:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "readlink", fails)
    with pytest.raises(OSError, match="Input/output"):
        disk.found(root)

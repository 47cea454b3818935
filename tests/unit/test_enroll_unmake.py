"""What an enrolment leaves as it is, and what a removal takes from ROOT."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from edgekit.fleet.enroll.decide import ROOT_NAMES
from edgekit.fleet.enroll.make import do_file
from edgekit.fleet.enroll.record import PENDING, MadeLog, StepFailedError
from edgekit.fleet.enroll.unmake import do_no_record, do_root_gone
from edgekit.fleet.enroll.values import file

FILES = ("state.db", "state.db-wal", "journal.db.broken", "reserve", "tuning.json", ".bootstrap-1")


@pytest.mark.parametrize(
    ("there", "then"), [(b'{"a": 1}', b'{"a": 1}'), (b"", b"{}"), (b"\xff", b"{}")]
)
def test_a_root_of_trust_that_is_whole_stays(tmp_path: Path, there: bytes, then: bytes) -> None:
    path = tmp_path / "root.json"
    path.write_bytes(there)
    step = file(PurePosixPath(path), b"{}", 0o600, keep=True).to_wire()
    assert do_file(step, MadeLog(tmp_path / "record")) is (there != then)
    assert path.read_bytes() == then


def root_in(folder: Path) -> Path:
    """A ROOT with a release, links to it, and a tree that nothing may write."""
    root = folder / "root"
    (root / "releases" / "ab" / "model").mkdir(parents=True)
    tree = root / "trees" / "cd"
    tree.mkdir(parents=True)
    (tree / "module.py").touch()
    tree.chmod(0o500)
    (root / "etc").mkdir()
    (root / "etc" / "agent.toml").touch()
    for name in FILES:
        (root / name).touch()
    (root / "current").symlink_to("releases/ab")
    (root / "previous").symlink_to("releases/none")
    return root


def gone(root: Path, *kept: Path) -> bool:
    told = {"root": str(root), "names": list(ROOT_NAMES), "kept": [str(one) for one in kept]}
    return do_root_gone(told, MadeLog(root.parent / "record"))


def test_nothing_of_a_root_stays_links_to_nothing_included(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    assert gone(root)
    assert not os.path.lexists(root)
    assert not gone(root), "a second removal changes nothing"


def test_what_is_not_edgekit_s_stops_a_removal_and_stays(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    (root / "thesis.txt").write_text("mine")
    with pytest.raises(StepFailedError, match=r"also has thesis\.txt"):
        gone(root)
    assert [path.name for path in root.iterdir()] == ["thesis.txt"]


def test_a_removal_follows_no_link_out_of_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    root = root_in(tmp_path)
    (root / "blobs").symlink_to(outside)
    (root / "releases" / "ab" / "out").symlink_to(outside)
    assert gone(root)
    assert (outside / "file").exists()
    link = tmp_path / "link"
    link.symlink_to(outside)
    assert not gone(link)
    assert (outside / "file").exists()


def test_the_record_goes_last_with_the_folders_that_only_it_needed(tmp_path: Path) -> None:
    path = tmp_path / "a" / "root" / "etc" / "enroll.json"
    record = MadeLog(path)
    assert record.begin({"device": "pi-1"})
    assert not (tmp_path / PENDING).exists()
    assert not MadeLog(path).begin({"device": "pi-1"}), "it is there already"
    root = path.parents[1]
    (root / "run").mkdir()
    gone(root, path)
    assert path.exists(), "until all is gone it says what is left"
    assert not (root / "run").exists()
    step = {"folders": [str(root / "etc"), str(root)]}
    assert do_no_record(step, MadeLog(path))
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_was_begun_is_found_above(tmp_path: Path) -> None:
    """A kill between the record and its folder leaves the record in the folder above."""
    path = tmp_path / "a" / "enroll.json"
    (tmp_path / PENDING).write_text('{"made": [["folder", "%s"]]}' % path.parent)  # noqa: UP031  # braces
    path.parent.mkdir()
    record = MadeLog(path)
    record.makes("file", "/x")
    assert not (tmp_path / PENDING).exists()
    assert do_no_record({"folders": []}, MadeLog(path))
    assert list(tmp_path.iterdir()) == []

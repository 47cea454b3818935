"""The crash matrix, and faults planted into edgekit that it has to find."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import store
from edgekit.agent.release import activate, state
from edgekit.agent.release.root import Root
from edgekit.agent.release.space import reserve
from edgekit.agent.release.staging import stage, trees
from edgekit.agent.release.trial import disk
from edgekit.agent.release.trial.events import MoveCurrent
from edgekit.core import layout
from edgekit.core.digest import Digest
from tests.crash import matrix
from tests.crash.disk.durable import Ledger
from tests.crash.world import ViolationError

pytestmark = pytest.mark.timeout(1200)
EVERY = 8  # of so many cases one; `python -m tests.show crash-matrix` runs them all, in minutes


def test_no_fault_at_any_call_leaves_a_device_without_a_good_release() -> None:
    made = matrix.run(every=EVERY)
    print(f"{len(made.keys)} cases, {len(made.recovered)} different ends")
    assert not made.violations, "\n".join(f"{k}: {v}" for k, v in made.violations.items())
    assert len(made.keys) >= 2000


def _nothing(*_: Any) -> None: ...


def _publish(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Without fsync of the file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.chmod(mode)
    temporary.replace(path)
    store.fsync_folder(path.parent)


def _replace_link(link: Path, target: str) -> None:
    """With a moment in which there is no link."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    store.fsync_folder(link.parent)


def _adopt(self: store.BlobStore, digest: Digest, size: int) -> None:
    """Without a look at the bytes."""
    part = self.part_path(digest)
    part.chmod(0o444)
    part.replace(self.path(digest))


_RENAME = disk._rename


def _by_a_new_link(root: Root, effect: Any) -> None:
    """The way back makes a link, for which a full disk has no room."""
    if isinstance(effect, MoveCurrent) and effect.to is not None:
        store.replace_link(root.current, str(layout.release(effect.to)))
    else:
        _RENAME(root, effect)


PLANTED: dict[str, tuple[str, list[tuple[object, str, Callable[..., Any]]]]] = {
    "a file is renamed before its bytes are on the disk": (
        "bad | activate",
        [(module, "publish", _publish) for module in (activate, disk)],
    ),
    "a link is away for a moment": (
        "bad | activate",
        [(module, "replace_link", _replace_link) for module in (activate, disk)],
    ),
    "a release's folder is published before its files are on the disk": (
        "one good | stage",
        [(module, "sync_file_system", _nothing) for module in (stage, trees)],
    ),
    "a transfer is believed": ("lies", [(store.BlobStore, "adopt", _adopt)]),
    "a blob is believed": ("damage", [(store.BlobStore, "verify", _nothing)]),
    "the way back needs a block of a full disk": (
        "staged | activate, which fails",
        [
            (disk, "_rename", _by_a_new_link),
            (reserve, "hold", _nothing),
            (reserve, "give", _nothing),
        ],
    ),
    "the try of a trial is not recorded": (
        "trial recorded | boot",
        [(state.Releases, "count_try", _nothing)],
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_by_the_sample(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, patches = PLANTED[fault]
    for owner, name, planted in patches:
        if hasattr(owner, name):
            monkeypatch.setattr(owner, name, planted)
    try:
        found = matrix.run(part, until_violated=True, every=EVERY).violations
    except ViolationError as error:  # already on the way to the state
        found = {"": str(error)}
    assert found


# --- the model of what a power cut keeps ------------------------------------------------------
def test_what_no_fsync_followed_is_lost_and_what_one_followed_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    ledger = Ledger(tmp_path)
    (tmp_path / "kept").write_text("new")
    ledger.changed(str(tmp_path / "kept"))
    (tmp_path / "added").write_text("more")
    ledger.changed(str(tmp_path / "added"))
    lost = dict(ledger.after_power_loss())
    assert contents(lost["power: names and bytes lost"]) == {"kept": b"old"}
    assert contents(lost["power: names lost"]) == {"kept": b"new"}
    assert contents(lost["power: bytes lost"]) == {"kept": b"old", "added": b""}
    assert contents(lost["power: bytes zero"]) == {"kept": bytes(3), "added": bytes(4)}
    ledger.synced(str(tmp_path / "kept"))
    ledger.synced(str(tmp_path / "added"))
    lost = dict(ledger.after_power_loss())
    assert contents(lost["power: names and bytes lost"]) == {"kept": b"new"}
    ledger.synced(str(tmp_path))
    assert [name for name, _ in ledger.after_power_loss()] == ["power: nothing lost"]


def test_a_rename_is_undone_as_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "name").write_text("old")
    ledger = Ledger(tmp_path)
    os.replace(tmp_path / "new", tmp_path / "name")
    ledger.changed()
    images = [contents(image) for _, image in ledger.after_power_loss()]
    assert images == [{"name": b"new"}, {"name": b"old", "new": b"new"}]


def test_a_commit_of_sqlite_is_undone_only_where_its_folder_is_not_synced_after_it(
    tmp_path: Path,
) -> None:
    root = Root(tmp_path)
    root.create()
    (tmp_path / "state.db").write_text("before")
    ledger = Ledger(tmp_path)
    for final, undone in ((True, False), (False, True)):
        (tmp_path / "state.db").write_text(f"after {final}")
        ledger.committed(str(tmp_path / "state.db"), final)
        names = [name for name, _ in ledger.after_power_loss()]
        assert ("power: commit undone" in names) is undone


def contents(image: Any) -> dict[str, bytes]:
    return {path: image.nodes[number].data for path, number in image.names}

"""What a trial does to a real ROOT, beside the model that its property test stands on."""

from __future__ import annotations

import sqlite3
from copy import deepcopy
from errno import ENOSPC
from itertools import chain
from pathlib import Path
from shutil import copytree
from typing import NoReturn

import pytest
from msgspec.structs import replace

from edgekit.agent.release import statefile
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.statefile import StateFileError
from edgekit.agent.release.trial import disk as release_disk
from edgekit.agent.release.trial.events import (
    ActivationComes,
    CountTry,
    Effect,
    ForgetGoodConfig,
    ForgetOlder,
    HoldStops,
    KeepRunning,
    MoveCurrent,
    RecordUnproven,
    RecordVerdict,
    RestoreGoodConfig,
    RestoreOlder,
    RestorePreviousConfig,
    SetAsideConfig,
    TakeNextConfig,
    TryAgain,
)
from edgekit.agent.release.trial.machine import Trial
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.errors import EdgekitError
from tests.fakes.release_disk import KINDS, NEW, OLD, OLDER, Disk, Row, before


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of devices: what they hold is compared, not whether it outlives a power cut."""
    monkeypatch.setattr(statefile, "_SCHEMA", (*statefile._SCHEMA, "PRAGMA synchronous=OFF"))
    monkeypatch.setattr("os.fsync", lambda _: None)


NAMES = {OLDER: "older", OLD: "old", NEW: "new"}


def on_device(disk: Disk, folder: Path) -> Root:
    """A ROOT that holds what the model holds."""
    root = Root(folder)
    root.create()
    releases = Releases(root.path)
    for digest, row in disk.rows.items():
        releases.stage(digest, NAMES[digest], "1")
        if row.state != ReleaseState.STAGED:
            releases.move(digest, ReleaseEvent.ACTIVATE)
        for _ in range(row.tries):
            releases.count_try(digest)
        if row.state == ReleaseState.GOOD:
            releases.move(digest, ReleaseEvent.RESTORED, row.reason)
        if row.state == ReleaseState.BAD:
            releases.move(digest, ReleaseEvent.FAILED, row.reason)
    links = (root.current, disk.current), (root.previous, disk.previous), (root.older, disk.older)
    for link, target in links:
        if target is not None:
            link.symlink_to(f"releases/{target.hex}")
            root.release(target).mkdir(exist_ok=True)
    texts = (disk.config, disk.previous_config, disk.good_config, disk.next_config)
    for path, config in zip(configs(root), texts, strict=True):
        if config is not None:
            path.write_text(config)
    with sqlite3.connect(root.path / "state.db") as database:
        if disk.trial is not None:
            database.execute("INSERT INTO trials VALUES (?, 0, 0, NULL, NULL)", (disk.trial,))
        for digest, (tries, waiting) in disk.unproven.items():
            values = (digest, tries, waiting)
            database.execute("INSERT INTO unproven VALUES (?, 0, ?, '', ?)", values)
    database.close()
    return root


def configs(root: Root) -> tuple[Path, ...]:
    return root.agent_config, root.previous_config, root.good_config, root.next_config


def as_model(root: Root) -> Disk:
    """What a ROOT holds, as the model says it."""
    releases = Releases(root.path)
    rows = {
        Digest.parse(row.digest): Row(ReleaseState(row.state), row.tries, row.reason)
        for row in releases.all()
    }
    config, previous, good, after = (
        path.read_text() if path.exists() else None for path in configs(root)
    )
    links = root.linked(root.current), root.linked(root.previous)
    trial, waits = releases.trial(), releases.unproven()
    unproven = {waits.digest: (waits.tries, waits.waiting)} if waits else {}
    last = trial.digest if trial else None
    older = root.linked(root.older)
    return Disk(rows, *links, config, previous, good, older, after, last, unproven)


def moments(kind: str) -> list[Disk]:
    """The disks that a push of this kind can leave, and a failed one that is gone to its end."""
    disk, seen = before(kind), []
    for _ in chain([None], disk.push()):
        seen.append(deepcopy(disk))
    unproven = deepcopy(disk)
    machine = Trial()
    for effect in machine.handle(replace(disk.found(), tries=1), 0.0):
        disk.perform(effect)
        seen.append(deepcopy(disk))
    only_config = unproven.good_config is not None
    unproven.perform(RecordUnproven(NEW, "no broker", only_config))
    seen.append(deepcopy(unproven))
    for effect in Trial().handle(unproven.found(), 0.0):
        unproven.perform(effect)
        seen.append(deepcopy(unproven))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_the_disk_is_what_the_disk_does(kind: str, tmp_path: Path) -> None:
    on_trial = {RecordVerdict, CountTry, RecordUnproven}
    effects: list[Effect] = [
        CountTry(NEW),
        RecordVerdict(NEW, ReleaseEvent.ANSWERED),
        RecordVerdict(NEW, ReleaseEvent.FAILED, "it ended"),
        RecordVerdict(NEW, ReleaseEvent.RESTORED, "it ended"),
        RecordUnproven(NEW, "no broker", only_config=False),
        RecordUnproven(NEW, "no broker", only_config=True),
        TryAgain(NEW),
        TakeNextConfig(NEW),
        TakeNextConfig(OLD),
        SetAsideConfig(),
        RestoreOlder(),
        ForgetOlder(),
        ForgetGoodConfig(),
        RestoreGoodConfig(),
        RestorePreviousConfig(),
        MoveCurrent(OLD),
        MoveCurrent(None),
        HoldStops(),
        KeepRunning(),
    ]
    seen = moments(kind)
    for number, model in enumerate((seen[0], *seen[-9:])):
        made = on_device(model, tmp_path / str(number))
        assert as_model(made) == model
        assert release_disk.found(made) == model.found()
        for which, effect in enumerate(effects):
            if type(effect) in on_trial and model.rows[NEW].state != ReleaseState.TRIAL:
                continue
            if isinstance(effect, TryAgain) and NEW not in model.unproven:
                with pytest.raises(EdgekitError, match="was given up meanwhile"):
                    release_disk.perform(made, effect)
                continue
            root = Root(tmp_path / f"{number}-{which}")
            copytree(made.path, root.path, symlinks=True)  # SQLite takes longer to make one
            after_it = deepcopy(model)
            after_it.perform(effect)
            release_disk.perform(root, effect)
            assert as_model(root) == after_it


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_a_push_is_what_a_push_does(kind: str, tmp_path: Path) -> None:
    for number, model in enumerate(moments(kind)):
        root = on_device(model, tmp_path / str(number))
        Releases(root.path).stage(NEW, "new", "1")
        for effect in Trial().handle(ActivationComes(release_disk.found(root)), 0.0):
            release_disk.perform(root, effect)
        release_disk.begin_trial(root, NEW, b"new")
        for _ in model.push():
            pass
        assert as_model(root) == model


@pytest.mark.parametrize("reserve", [False, True])
def test_the_way_back_needs_no_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserve: bool
) -> None:
    model = before("release with an older one")
    for _ in model.push():
        pass
    root = on_device(model, tmp_path)
    kept = root.path / layout.RESERVE_FILE
    if reserve:
        kept.write_bytes(b"\0" * 4096)
    moved = Releases.move

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(ENOSPC, "No space left on device")

    def move(releases: Releases, digest: Digest, event: ReleaseEvent, reason: str = "") -> object:
        if kept.exists() or not reserve:
            raise StateFileError("state.db cannot be used", "database or disk is full")
        return moved(releases, digest, event, reason)

    monkeypatch.setattr(Releases, "move", move)
    for name in ("symlink_to", "write_bytes", "write_text", "touch", "mkdir"):
        monkeypatch.setattr(Path, name, full)
    unrecorded = [
        release_disk.perform_on_full(root, effect)
        for effect in Trial().handle(replace(release_disk.found(root), tries=1), 0.0)
    ]
    assert any(unrecorded) != reserve
    assert (root.linked(root.current), root.linked(root.previous)) == (OLD, OLDER)
    assert root.agent_config.read_text() == "old"
    assert not root.older.is_symlink()
    state = next(row.state for row in Releases(root.path).all() if row.digest == NEW)
    assert state == (ReleaseState.BAD if reserve else ReleaseState.TRIAL)
    assert Trial().handle(release_disk.found(root), 0.0) == (KeepRunning(),)

"""What a trial does to a real ROOT, beside the model that its property test stands on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from edgekit.agent.release import disk as release_disk
from edgekit.agent.release.activate import _switch
from edgekit.agent.release.events import (
    CountTry,
    Effect,
    ForgetGoodConfig,
    HoldStops,
    KeepRunning,
    MoveCurrent,
    RecordVerdict,
    RestoreGoodConfig,
    RestorePreviousConfig,
)
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.trial import Trial
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState
from tests.fakes.release_disk import KINDS, NEW, OLD, Disk, Row, before

NAMES = {OLD: "old", NEW: "new"}


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
    for link, target in ((root.current, disk.current), (root.previous, disk.previous)):
        if target is not None:
            link.symlink_to(f"releases/{target.hex}")
    for path, config in zip(
        configs(root), (disk.config, disk.previous_config, disk.good_config), strict=True
    ):
        if config is not None:
            path.write_text(config)
    return root


def configs(root: Root) -> tuple[Path, Path, Path]:
    return root.agent_config, root.previous_config, root.good_config


def as_model(root: Root) -> Disk:
    """What a ROOT holds, as the model says it."""
    rows = {
        Digest.parse(row.digest): Row(ReleaseState(row.state), row.tries, row.reason)
        for row in Releases(root.path).all()
    }
    texts = [path.read_text() if path.exists() else None for path in configs(root)]
    return Disk(rows, root.linked(root.current), root.linked(root.previous), *texts)


def moments(kind: str) -> list[Disk]:
    """The disks that a push of this kind can leave, and a failed one that is gone to its end."""
    disk, seen = before(kind), []
    for _ in chain([None], disk.push()):
        seen.append(deepcopy(disk))
    machine = Trial()
    for effect in machine.handle(replace(disk.found(), tries=1), 0.0):
        disk.perform(effect)
        seen.append(deepcopy(disk))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_the_disk_is_what_the_disk_does(kind: str, tmp_path: Path) -> None:
    on_trial = {RecordVerdict, CountTry}
    effects: list[Effect] = [
        CountTry(NEW),
        RecordVerdict(NEW, ReleaseEvent.ANSWERED),
        RecordVerdict(NEW, ReleaseEvent.FAILED, "it ended"),
        RecordVerdict(NEW, ReleaseEvent.RESTORED, "it ended"),
        ForgetGoodConfig(),
        RestoreGoodConfig(),
        RestorePreviousConfig(),
        MoveCurrent(OLD),
        MoveCurrent(None),
        HoldStops(),
        KeepRunning(),
    ]
    seen = moments(kind)
    for number, model in enumerate((seen[0], *seen[-4:])):
        for which, effect in enumerate(effects):
            if type(effect) in on_trial and model.rows[NEW].state != ReleaseState.TRIAL:
                continue
            root = on_device(model, tmp_path / f"{number}-{which}")
            assert as_model(root) == model
            assert release_disk.found(root) == model.found()
            after_it = deepcopy(model)
            after_it.perform(effect)
            release_disk.perform(root, effect)
            assert as_model(root) == after_it


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_a_push_is_what_a_push_does(kind: str, tmp_path: Path) -> None:
    for number, model in enumerate(moments(kind)):
        root = on_device(model, tmp_path / str(number))
        Releases(root.path).stage(NEW, "new", "1")
        _switch(root, NEW, b"new")
        for _ in model.push():
            pass
        assert as_model(root) == model

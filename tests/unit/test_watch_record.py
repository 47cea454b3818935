"""The supervisor's process on a disk that takes no record: what runs goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor import watch as watching
from edgekit.agent.release.supervisor.watch import Watch
from edgekit.agent.release.trial.events import (
    CountTry,
    StartAgent,
    StopAsked,
    TimePassed,
    TryUnrecorded,
)
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent

RELEASE = Digest.of(b"release")


def test_a_try_that_cannot_be_recorded_is_told_in_place_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Root(tmp_path)
    root.create()
    releases = Releases(root.path)
    releases.stage(RELEASE, "a", "1")
    releases.move(RELEASE, ReleaseEvent.ACTIVATE)
    root.current.symlink_to(f"releases/{RELEASE.hex}")
    watch = Watch(root)
    monkeypatch.setattr(Releases, "count_try", lambda *_: _full())
    watch._perform(CountTry(RELEASE))
    watch._perform(StartAgent())
    assert list(watch._events) == [TryUnrecorded("No space left on device")]
    assert watch._child is None
    assert "not on record" in capsys.readouterr().err


def test_on_a_disk_that_became_read_only_the_agent_is_not_drained_for_a_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Root(tmp_path)
    root.create()
    watch = Watch(root)
    root.current.symlink_to(f"releases/{RELEASE.hex}")  # an activation was cut after its links
    real = Path.open

    def refuses(path: Path, mode: str = "r", *others: Any, **more: Any) -> Any:
        if path.is_relative_to(tmp_path) and mode != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, mode, *others, **more)

    monkeypatch.setattr(Path, "open", refuses)
    assert not watch._check_current()
    assert not watch._stopping
    assert "what runs goes on" in capsys.readouterr().err


def test_a_trial_that_was_given_up_ends_also_where_nobody_tells_its_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollback that gave it up was killed: its agent served what was given up for the soak."""
    root = Root(tmp_path)
    root.create()
    releases = Releases(root.path)
    releases.stage(RELEASE, "a", "1")
    releases.move(RELEASE, ReleaseEvent.ACTIVATE)
    root.current.symlink_to(f"releases/{RELEASE.hex}")
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(watching, "cannot_start", lambda _: "")
    watch = Watch(root)
    assert watch._look() == TimePassed()
    releases.move(RELEASE, ReleaseEvent.RESTORED, "another activation came during the trial")
    assert watch._look() == StopAsked()
    assert watch._superseded


def _full() -> None:
    raise OSError("No space left on device")

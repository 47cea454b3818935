"""What a rollback asks of one device, and what it makes of the answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.push import go_back_on

OLDER, OLD, NEW = (Digest.of(word) for word in (b"older", b"old", b"new"))
CONFIG = 'device = "pi-1"\n'


class Scripted:
    """A device's agent by its answers; `tests/fault/test_release_trial.py` has the real one."""

    name = "pi-1"

    def __init__(self, current: Digest, previous: Digest | None, *, gives_up: bool = True) -> None:
        self.facts = SimpleNamespace(current=current, config=CONFIG)
        self.previous, self.gives_up = previous, gives_up
        self.unproven: Digest | None = None
        self.asked: list[tuple[str, ...]] = []

    def call(self, *words: str, stdin: bytes = b"", seconds: float = 0.0) -> dict[str, Any]:
        self.asked.append(words)
        if words[0] == "activate":
            assert stdin == CONFIG.encode()
            self.unproven = None if self.gives_up else self.unproven
        waits = {"digest": self.unproven, "reason": "no broker"} if self.unproven else None
        return {"previous": self.previous, "unproven": waits}


def go_back(device: Scripted, before: Digest | None = OLD) -> list[str]:
    go_back_on(cast(DeviceDriver, device), NEW, before)
    return [words[0] for words in device.asked]


def test_a_device_that_runs_the_release_goes_back() -> None:
    assert go_back(Scripted(NEW, OLD)) == ["state", "rollback"]
    for device, before in ((Scripted(NEW, OLDER), OLD), (Scripted(NEW, None), None)):
        with pytest.raises(EdgekitError, match="cannot go back to what it ran before"):
            go_back(device, before)


def test_a_device_that_runs_another_release_is_left_alone() -> None:
    assert go_back(Scripted(OLD, OLDER)) == ["state"]
    other = Scripted(OLD, OLDER)
    other.unproven = Digest.of(b"somebody else's")
    assert go_back(other) == ["state"]


def test_a_device_that_would_try_the_release_again_is_told_to_keep_the_old_one() -> None:
    device = Scripted(OLD, OLDER)
    device.unproven = NEW
    assert go_back(device) == ["state", "activate", "state"]
    assert device.asked[1] == ("activate", OLD, "--config", "-")
    older = Scripted(OLD, OLDER, gives_up=False)
    older.unproven = NEW
    with pytest.raises(EdgekitError, match="goes on trying"):
        go_back(older)

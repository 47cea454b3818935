"""A model of what a device keeps of its releases, for the trial; `test_release_disk` holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.agent.release.events import (
    CountTry,
    Effect,
    ForgetGoodConfig,
    MoveCurrent,
    OnDisk,
    RecordVerdict,
    RestoreGoodConfig,
    RestorePreviousConfig,
)
from edgekit.agent.release.trial import Trial
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState, after

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
KINDS = ("release", "first release", "configuration", "configuration of the first release")


@dataclass
class Row:
    """How a release stands."""

    state: ReleaseState
    tries: int = 0
    reason: str = ""


@dataclass
class Disk:
    """What outlives a kill: the rows of state.db, two links, three files."""

    rows: dict[Digest, Row]
    current: Digest | None = None
    previous: Digest | None = None
    config: str | None = None
    previous_config: str | None = None
    good_config: str | None = None

    def found(self) -> OnDisk:
        """What `disk.found` says of it."""
        good = self.good_config is not None
        if self.current is None:
            return OnDisk(None, good_config=good, previous=self.previous)
        row = self.rows[self.current]
        return OnDisk(self.current, row.state, row.tries, row.reason, good, self.previous)

    def perform(self, effect: Effect) -> None:
        """What `disk.perform` does to it."""
        match effect:
            case CountTry(release):
                self.rows[release].tries += 1
            case RecordVerdict(release, event, reason):
                self.rows[release] = Row(after(self.rows[release].state, event), 0, reason)
            case ForgetGoodConfig():
                self.good_config = None
            case RestoreGoodConfig():
                if self.good_config is not None:
                    self.config, self.good_config = self.good_config, None
            case RestorePreviousConfig():
                if self.previous_config is not None:
                    self.config, self.previous_config = self.previous_config, None
            case MoveCurrent(to):
                self.current = to

    def push(self) -> Iterator[None]:
        """The writes of `stage` and `activate` for NEW with a new configuration, one by one."""
        if self.rows[NEW].state == ReleaseState.BAD:
            self.perform(RecordVerdict(NEW, ReleaseEvent.STAGE))
            yield
        if self.current and self.rows[self.current].state != ReleaseState.TRIAL:
            for effect in Trial().handle(self.found(), 0.0):
                self.perform(effect)
                yield
        current, config = self.current, self.config
        good = current is not None and self.rows[current].state == ReleaseState.GOOD
        self.good_config = config if good and current == NEW else None
        yield
        self.perform(RecordVerdict(NEW, ReleaseEvent.ACTIVATE))
        yield
        if good and current != NEW:
            self.previous_config = config
            yield
            self.previous = current
            yield
        self.current = NEW
        yield
        self.config = "new"
        yield


def before(kind: str) -> Disk:
    """The disk when the push comes."""
    good, staged = ReleaseState.GOOD, ReleaseState.STAGED
    if kind == "release":
        return Disk({OLD: Row(good), NEW: Row(staged)}, OLD, None, "old")
    if kind == "first release":
        return Disk({NEW: Row(staged)})
    if kind == "configuration":
        return Disk({OLD: Row(good), NEW: Row(good)}, NEW, OLD, "old", "older")
    return Disk({NEW: Row(good)}, NEW, None, "old")

"""A model of what a device keeps of its releases, for the trial; `test_release_disk` holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edgekit.agent.release.trial.events import (
    ActivationComes,
    CountTry,
    Effect,
    ForgetGoodConfig,
    ForgetOlder,
    MoveCurrent,
    OnDisk,
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
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState, after

OLDER, OLD, NEW = Digest.of(b"older"), Digest.of(b"old"), Digest.of(b"new")
KINDS = (
    *("release", "release with an older one", "first release"),
    *("configuration", "configuration of the first release"),
)


@dataclass
class Row:
    """How a release stands."""

    state: ReleaseState
    tries: int = 0
    reason: str = ""


@dataclass
class Disk:
    """What outlives a kill: the rows of state.db, three links, four files."""

    rows: dict[Digest, Row]
    current: Digest | None = None
    previous: Digest | None = None
    config: str | None = None
    previous_config: str | None = None
    good_config: str | None = None
    older: Digest | None = None
    next_config: str | None = None
    trial: Digest | None = None  # the release whose trial began last
    unproven: dict[Digest, tuple[int, bool]] = field(default_factory=dict)  # tries, waiting

    def found(self) -> OnDisk:
        """What `disk.found` says of it."""
        good = self.good_config is not None
        if self.current is None:
            return OnDisk(None, good_config=good, previous=self.previous, older=self.older)
        row = self.rows[self.current]
        return OnDisk(
            *(self.current, row.state, row.tries, row.reason, good, self.previous, self.older),
            unproven=self.unproven.get(self.current, (0, False))[1],
        )

    def perform(self, effect: Effect) -> None:  # noqa: PLR0912  one case for each effect
        """What `disk.perform` does to it."""
        match effect:
            case CountTry(release):
                self.rows[release].tries += 1
            case RecordVerdict(release, event, reason):
                self.rows[release] = Row(after(self.rows[release].state, event), 0, reason)
                self.unproven.pop(release, None)
            case RecordUnproven(release, _, only_config):
                event = ReleaseEvent.RESTORED if only_config else ReleaseEvent.UNPROVEN
                self.rows[release] = Row(after(self.rows[release].state, event))
                self.unproven[release] = (self.unproven.get(release, (0, True))[0] + 1, True)
            case TryAgain(release):
                for _ in self.begin(release):
                    pass
            case ForgetGoodConfig():
                self.good_config = None
            case ForgetOlder():
                self.older = None
            case TakeNextConfig(release):
                if self.trial == release and self.next_config is not None:
                    self.config, self.next_config = self.next_config, None
            case SetAsideConfig():
                left = self.good_config is not None or self.previous_config is not None
                if left and self.config is not None:
                    self.next_config, self.config = self.config, None
            case RestoreGoodConfig():
                if self.good_config is not None:
                    self.config, self.good_config = self.good_config, None
            case RestorePreviousConfig():
                if self.previous_config is not None:
                    self.config, self.previous_config = self.previous_config, None
            case RestoreOlder():
                if self.older is not None:
                    self.previous, self.older = self.older, None
                elif self.previous == self.current:
                    self.previous = None
            case MoveCurrent(None):
                self.current = None
            case MoveCurrent(to):
                if self.previous == to:
                    self.current, self.previous = self.previous, None

    def push(self) -> Iterator[None]:
        """The writes of `stage` and `activate` for NEW with a new configuration, one by one."""
        if self.rows[NEW].state == ReleaseState.BAD:
            self.perform(RecordVerdict(NEW, ReleaseEvent.STAGE))
            yield
        for effect in Trial().handle(ActivationComes(self.found()), 0.0):
            self.perform(effect)
            yield
        yield from self.begin(NEW, "new")

    def begin(self, release: Digest, config: str | None = None) -> Iterator[None]:
        """The writes of `disk.begin_trial`, one by one."""
        current = self.current
        good = current is not None and self.rows[current].state == ReleaseState.GOOD
        good = good and self.config is not None
        if config is not None:
            self.next_config = config
            yield
        self.good_config = self.config if good and current == release else None
        yield
        for digest, row in self.rows.items():
            if digest != release and row.state == ReleaseState.TRIAL:
                self.rows[digest] = Row(after(row.state, ReleaseEvent.SUPERSEDED))
        self.unproven = {d: (n, False) for d, (n, _) in self.unproven.items() if d == release}
        self.trial = release
        self.rows[release] = Row(after(self.rows[release].state, ReleaseEvent.ACTIVATE))
        yield
        if good and current != release:
            self.previous_config = self.config
            yield
            self.older = self.previous
            yield
            self.previous = current
            yield
        self.current = release
        yield
        if self.next_config is not None:
            self.config, self.next_config = self.next_config, None
        yield


def before(kind: str) -> Disk:
    """The disk when the push comes."""
    good, staged = ReleaseState.GOOD, ReleaseState.STAGED
    if kind == "release":
        return Disk({OLD: Row(good), NEW: Row(staged)}, OLD, None, "old")
    if kind == "release with an older one":
        rows = {OLDER: Row(good), OLD: Row(good), NEW: Row(staged)}
        return Disk(rows, OLD, OLDER, "old", "older")
    if kind == "first release":
        return Disk({NEW: Row(staged)})
    if kind == "configuration":
        return Disk({OLD: Row(good), NEW: Row(good)}, NEW, OLD, "old", "older")
    return Disk({NEW: Row(good)}, NEW, None, "old")

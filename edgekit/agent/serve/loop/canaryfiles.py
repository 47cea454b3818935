"""The files of the quality canary, and what it does in each turn of the agent's loop.

A baseline and a report lie in the folder of the release that they are about, and go with it. A
baseline has tokens of the bundle's own prompts; a report has scores alone.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit.agent.serve.loop.samplestore import MAX_SECONDS, NoMemoryStoreError, SampleStore
from edgekit.agent.serve.pipe import Cancel, EndedPrompt, ForCanary, Walk, WalkBroken, WalkEnded
from edgekit.agent.serve.session.canary import (
    Canary,
    CanaryEffect,
    Judged,
    KeepBaseline,
    KeepSample,
    Known,
)
from edgekit.agent.serve.session.events import Snapshot
from edgekit.core import layout
from edgekit.core.golden import Golden
from edgekit.core.manifest import parse_config
from edgekit.core.quality import Baseline, Lineage, QualityReport
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError
from edgekit.store import publish

log = logging.getLogger(__name__)

TIDY_SECONDS = 60.0
MAX_FILE_BYTES = 4 << 20
T = TypeVar("T")


class CanaryFiles:
    """The canary of one agent.

    Args:
        root: the device's folder.
        folder: of the release that it serves.
        previous: of the release before it; None: there is none.
        keeps: how many ended prompts are kept; 0: none.
        store: keeps them; None: as this device can.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        previous: Path | None,
        keeps: int,
        store: SampleStore | None = None,
    ) -> None:
        self._folder = folder
        self._release = f"sha256:{folder.name}"
        self._tidy_at = 0.0
        self._store = store
        try:
            self._store = store or SampleStore(root, keeps)
        except NoMemoryStoreError as error:
            if keeps:
                log.warning("%s", error)
            keeps = 0
        if not keeps:  # what was kept before goes, unread
            self._remove()
            self._store = None
        self.report = _read(folder / layout.QUALITY, QualityReport)
        self._canary = Canary(self._known(previous, keeps))

    def tick(self, snapshot: Snapshot, judged: bool, now: float) -> Walk | Cancel | None:
        """Return what the worker is to walk now or to stop walking, if anything."""
        if self._store is not None and now >= self._tidy_at:
            self._tidy_at = now + TIDY_SECONDS
            self._canary.forget(self._store.clock() - MAX_SECONDS)
            try:
                self._store.tidy()
            except OSError as error:
                log.warning("ended prompts cannot be tidied: %s", error)
        idle = snapshot.answers and not snapshot.owed and snapshot.status.state == "ready"
        walk, effects = self._canary.tick(idle=idle, judged=judged, now=now)
        self._perform(effects)
        return walk

    def said(self, message: ForCanary) -> None:
        """Take what the worker says."""
        match message:
            case WalkEnded():
                self._perform(self._canary.walked(message))
            case WalkBroken():
                self._canary.broken(message)
            case EndedPrompt() if self._store is not None:
                self._canary.prompt_ended(message, self._store.clock())

    def lost(self) -> None:
        """The worker has ended."""
        self._perform(self._canary.lost())

    def close(self, *, successor: bool) -> None:
        """The agent ends; only a successor may read the ended prompts."""
        if self._store is not None and not successor:
            self._remove()

    def _perform(self, effects: list[CanaryEffect]) -> None:
        for effect in effects:
            try:
                match effect:
                    case Judged(report):
                        self._remove()  # first: a report says that they are gone
                        publish(self._folder / layout.QUALITY, msgspec.json.encode(report))
                        self.report = report
                        log.info("the quality of this release: %s", report)
                    case KeepBaseline(baseline):
                        publish(self._folder / layout.BASELINE, msgspec.json.encode(baseline))
                    case KeepSample(sample, at):
                        if self._store is not None:
                            self._store.add(self._release, sample, at)
            except OSError as error:  # a full disk must not end the agent
                log.warning("the canary cannot write: %s", error)

    def _remove(self) -> None:
        try:
            if self._store is not None:
                self._store.remove()
        except OSError as error:
            log.warning("ended prompts cannot be removed: %s", error)

    def _known(self, previous: Path | None, keeps: int) -> Known:
        golden = _read(self._folder / layout.GOLDEN, Golden)
        against = f"sha256:{previous.name}" if previous is not None else ""
        samples = []
        if self._store is not None:
            try:
                # Before its report this agent reads what the release before has left.
                samples = self._store.samples(self._release if self.report else against)
            except OSError as error:
                log.warning("ended prompts cannot be read: %s", error)
        return Known(
            self._release,
            lineage_of(self._folder, golden),
            [prompt.tokens[: prompt.start] for prompt in golden.prompts] if golden else [],
            self.report,
            (self._folder / layout.BASELINE).exists(),
            against,
            _read(previous / layout.BASELINE, Baseline) if previous is not None else None,
            samples,
            keeps,
        )


def lineage_of(folder: Path, golden: Golden | None) -> Lineage:
    """The lineage of a release by its folder and its golden prompts."""
    config = parse_config((folder / layout.BUNDLE_CONFIG).read_bytes())
    tokenizer = folder / layout.MODEL / "tokenizer.json"
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.exists() else ""
    made_from = golden.made_from if golden and isinstance(golden.made_from, str) else ""
    return Lineage(config.name, config.model_type, digest, made_from)


def _read(path: Path, kind: type[T]) -> T | None:
    """A file's value; None if it is not there or cannot be read."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, EdgekitError, *UNREADABLE):
        return None

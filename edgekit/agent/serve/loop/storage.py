"""Performs what the session asks of its journal; what came of it are events."""

from __future__ import annotations

import logging

from edgekit.agent.serve.loop.journal import Journal, StorageError
from edgekit.agent.serve.session.events import (
    Effect,
    Event,
    Forget,
    Record,
    Restored,
    StorageBack,
    Unrecorded,
)

log = logging.getLogger(__name__)


class Storage:
    """The journal, read once and written often.

    Args:
        journal: opened when it is first needed.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._was_read = False
        self._complained = False

    def restore(self) -> Event:
        """Read what the journal holds; `Unrecorded` when it cannot be read."""
        try:
            rows = self._journal.load()
        except StorageError as error:
            self._complain(error)
            return Unrecorded()
        self._was_read = True
        if rows:
            log.info("the journal holds %d prompts", len(rows))
        return Restored(rows)

    def commit(self, effects: tuple[Effect, ...]) -> Unrecorded | None:
        """Do all `Record` and `Forget` of one step in one commit; None when that is done."""
        rows = [effect.row for effect in effects if isinstance(effect, Record)]
        keys = [effect.key for effect in effects if isinstance(effect, Forget)]
        if not rows and not keys:
            return None
        try:
            self._journal.commit(rows, keys)
        except StorageError as error:
            self._complain(error)
            return Unrecorded(tuple(row.key for row in rows), tuple(keys))
        return None

    def check(self) -> tuple[Event, ...]:
        """Try whether the journal can be written: `StorageBack` if so, after its rows where it
        could not be read before."""
        events: list[Event] = []
        if not self._was_read:
            events.append(self.restore())
            if not self._was_read:
                return tuple(events)
        else:
            try:
                self._journal.check()
            except StorageError:
                return ()
        log.info("the journal can be written again")
        self._complained = False
        return (*events, StorageBack())

    def _complain(self, error: StorageError) -> None:
        if not self._complained:
            log.warning("no prompt is taken until there is storage: %s: %s", error.what, error.why)
        self._complained = True

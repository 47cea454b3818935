"""Performs the session's effects on the journal and returns the results as events."""

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
    """Reads the journal at the start and commits to it.

    Args:
        journal: opened on first use.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._was_read = False
        self._complained = False

    def restore(self) -> Event:
        """Read the journal: `Restored` with its rows, or `Unrecorded` when it cannot be read."""
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
        """Commit all `Record` and `Forget` of one step at once; None when that succeeds."""
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
        """Test whether the journal can be written.

        Returns:
            `StorageBack` if it can, after `Restored` where the journal could not be read before.
        """
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

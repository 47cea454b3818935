"""The project's own facts, read again while somebody watches.

To read a journal blocks, so a thread does it, once in `SECONDS` for all watchers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from edgekit.errors import EdgekitError
from edgekit.gateway.page.told import ProjectTold

log = logging.getLogger(__name__)

SECONDS = 2.0

ProjectReader = Callable[[], ProjectTold]
"""Reads what the project knows now; raises EdgekitError where it cannot be read."""


class Facts:
    """What a reader said last.

    Args:
        reader: of the project; it is called on one thread at a time. None: there is no project.
    """

    def __init__(self, reader: ProjectReader | None) -> None:
        self._reader = reader
        self._last = ProjectTold()
        self._read_at = float("-inf")
        self._complained = ""
        self._lock = asyncio.Lock()

    async def now(self) -> ProjectTold:
        """What the project knows, up to `SECONDS` old; the last of it where it cannot be read."""
        if self._reader is None:
            return self._last
        async with self._lock:
            if time.monotonic() - self._read_at >= SECONDS:
                try:
                    self._last = await asyncio.to_thread(self._reader)
                except (EdgekitError, OSError) as error:
                    if str(error) != self._complained:
                        log.warning("the page does not show the project as it is now: %s", error)
                    self._complained = str(error)
                self._read_at = time.monotonic()
        return self._last

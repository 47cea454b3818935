"""The project's own facts, read again while somebody watches.

To read a journal blocks, so a thread does it, once in `SECONDS` for all watchers. Who asks gets the
last that was read, so a journal that is locked holds up nothing else.
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
FIRST_SECONDS = 2.0  # that the first answer waits for

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
        self._reading: asyncio.Task[None] | None = None

    async def now(self) -> ProjectTold:
        """What the project knew when it was read last; before the first time, it waits a little."""
        if self._reader is None:
            return self._last
        first = self._read_at == float("-inf")
        if self._reading is None and time.monotonic() - self._read_at >= SECONDS:
            self._reading = asyncio.create_task(self._read(self._reader))
        if first and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=FIRST_SECONDS)
        return self._last

    async def _read(self, reader: ProjectReader) -> None:
        try:
            self._last = await asyncio.to_thread(reader)
        except (EdgekitError, OSError) as error:
            if str(error) != self._complained:
                log.warning("the page does not show the project as it is now: %s", error)
            self._complained = str(error)
        finally:
            self._read_at, self._reading = time.monotonic(), None

"""For how long nobody answers on a device while one release takes the place of another."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.statefile import StateFileError
from edgekit.core.digest import Digest

SILENCE_VARIABLE = "EDGEKIT_SILENT_SINCE"  # monotonic seconds that a supervisor passes on


class Silence:
    """Measures from the end of an agent to the next ready file, also across supervisors.

    What cannot be recorded, on a full disk, is only missing in an answer.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        passed = os.environ.pop(SILENCE_VARIABLE, "")
        self._since = float(passed) if passed else None
        self._soaks = False

    def since(self) -> str:
        """The value of `SILENCE_VARIABLE` for a successor."""
        return "" if self._since is None else repr(self._since)

    def begins(self) -> None:
        """Note that an agent has ended."""
        if self._since is None:
            self._since = time.monotonic()

    def ends(self) -> None:
        """Record the silence once an agent is ready."""
        if self._since is None:
            return
        with suppress(OSError, StateFileError):
            ago = max(time.time() - self._root.ready_file.stat().st_mtime, 0.0)
            silent = max(time.monotonic() - self._since - ago, 0.0)
            self._since = None
            Releases(self._root.path).answers_after(round(silent, 3))

    def soaks(self, release: Digest, seconds: float) -> None:
        """Record, once, that a release has shown everything and now soaks for `seconds`."""
        if not self._soaks:
            self._soaks = True
            with suppress(OSError, StateFileError):
                Releases(self._root.path).soaks(release, seconds)

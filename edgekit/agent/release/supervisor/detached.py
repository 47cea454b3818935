"""Detached: the supervisor for accounts without systemd, in a session of its own."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.process import STOP_MARGIN_SECONDS, Supervised, command

if TYPE_CHECKING:  # it starts seldom, and every verb would pay for the imports
    import subprocess


class Detached(Supervised):
    """A supervisor in a session of its own; it writes to the device's log."""

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start `agent supervise` from the trees of `current`.

        Raises:
            EdgekitError: the supervisor did not lock the pid file in time.
        """
        import subprocess  # noqa: PLC0415  see above

        from edgekit.agent.release.supervisor.become import forget_unknown  # noqa: PLC0415  see above

        forget_unknown(self._root)
        with self._root.log_file.open("a") as log:
            self._process = subprocess.Popen(
                command(self._root, "supervise"),
                env=self._root.environment(self._root.current.resolve()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._root.path,
            )
        self._wait_for_lock(STOP_MARGIN_SECONDS)

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _kill(self, pid: int) -> None:
        os.killpg(pid, signal.SIGKILL)

"""Systemd: the supervisor is the main process of the unit `edgekit-agent` (`deploy/systemd`).

The agent's account may not start a system unit, and a small device has no polkit. So `start` leaves
a file that the unit `edgekit-agent.path` waits for; systemd then starts the service. It works for a
system unit and for a user unit alike, and calls no program of systemd.
"""

from __future__ import annotations

from edgekit.agent.release.supervisor.process import Supervised

START_SECONDS = 30.0  # a unit that waits to be restarted (RestartSec), and the start of Python


class Systemd(Supervised):
    """The supervisor as the main process of a unit."""

    def start(self) -> None:
        """Ask systemd to start the unit.

        Raises:
            EdgekitError: the supervisor did not lock the pid file in time.
        """
        wanted = self._root.start_file
        wanted.touch()
        try:
            self._wait_for_lock(START_SECONDS)
        finally:
            wanted.unlink(missing_ok=True)

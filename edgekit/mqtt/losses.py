"""Several connections that are lost soon after they were subscribed: what that means. Pure.

A broker ends the older of two connections with one Client Identifier (§3.1.4). It should say so
with 0x8E; Mosquitto 2.0 and others only close the connection. Each of the two clients then connects
again, and ends the other one's.
"""

from __future__ import annotations

BRIEF_SECONDS = 20.0  # above the longest wait before a reconnect: the other client's next turn
SEVERAL = 3


class BriefLosses:
    """Counts brief connections that were lost one after the other without a reason."""

    def __init__(self) -> None:
        self._count = 0
        self.several = False  # since the last connection that lasted

    def lost(self, lived_seconds: float, *, told_why: bool) -> bool:
        """Note a lost connection.

        Args:
            lived_seconds: since the client had subscribed.
            told_why: whether the broker sent a DISCONNECT.

        Returns:
            Whether these are several now, for the first time since a connection lasted.
        """
        if told_why or lived_seconds >= BRIEF_SECONDS:
            self._count, self.several = 0, False
            return False
        self._count += 1
        before, self.several = self.several, self._count >= SEVERAL
        return self.several and not before


def hint(broker: object, client_id: str) -> str:
    """What several brief losses hint at."""
    return (
        f"the broker at {broker} ended the connection {SEVERAL} times within seconds of "
        f"subscribing: is another client connected as {client_id}? Each of two clients with one "
        "identifier ends the other's connection, and this broker does not say so"
    )

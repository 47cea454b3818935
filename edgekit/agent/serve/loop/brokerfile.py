"""Writes how the agent stands with its broker to a file, for `edgekit state`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.serve.session.events import Snapshot
from edgekit.core.protocol.reasons import PUBACK_NAMES
from edgekit.mqtt.standing import Standing
from edgekit.store import publish

log = logging.getLogger(__name__)


class BrokerFile:
    """A file that is written again when something changed.

    Args:
        path: of the file.
        broker: its address.
    """

    def __init__(self, path: Path, broker: str) -> None:
        self._path = path
        self._broker = broker
        self._written: dict[str, Any] | None = None
        self._complained = False

    def tell(self, snapshot: Snapshot, standing: Standing, desired: str = "") -> None:
        """Write what is true in this tick. A file that cannot be written is tried again.

        Args:
            snapshot: of the agent.
            standing: of its connection.
            desired: why it is not known what the device shall run; empty: it is known.
        """
        told: dict[str, Any] = {
            "broker": self._broker,
            "connected": snapshot.connected,
            "trouble": standing.trouble,
            "unserved": list(standing.unserved),
            "refused": [
                {"topic": topic, "code": code, "reason": PUBACK_NAMES.get(code, "")}
                for topic, code in snapshot.refused
            ],
        }
        if desired:
            told["desired"] = desired
        if told == self._written:
            return
        try:
            publish(self._path, msgspec.json.encode(told))
        except OSError as error:  # a full disk must not end the agent
            if not self._complained:
                log.warning("%s cannot be written: %s", self._path, error)
            self._complained = True
            return
        self._written, self._complained = told, False

    def remove(self) -> None:
        """Remove the file: no agent runs."""
        self._path.unlink(missing_ok=True)

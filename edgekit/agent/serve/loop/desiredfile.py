"""What a broker says that this device shall run goes to a file, and the updater's report to the
broker.

The agent has the one connection of the device, so it carries both; it decides nothing about them.
A storm of desired states costs a write in `WRITE_SECONDS`, and none where nothing changes.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgekit.agent.release.desired.decide import Desired, encode_desired, parse_desired
from edgekit.core.config import PullConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import MAX_UPDATE_BYTES
from edgekit.core.protocol.wire import Inbound, Outbound
from edgekit.store import publish

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0  # after the last message: a device's own comes with those of its groups
NOTHING_SECONDS = 10.0  # after a connection without a message: a slow link takes its time
WRITE_SECONDS = 5.0
LOOK_SECONDS = 0.5  # between two looks at the report; a rollout waits for three of its words


class DesiredFile:
    """The desired state that counts, and the report.

    Args:
        device: its name.
        config: whether it pulls, and its groups.
        desired: the file of the desired state; `report` that of the updater's report.
    """

    def __init__(self, device: str, config: PullConfig, desired: Path, report: Path) -> None:
        self._device, self._path, self._report_path = device, desired, report
        topics_of = [topics.desired_topic(device)]
        topics_of += [topics.group_desired_topic(group) for group in config.groups]
        self.topics = tuple(topics_of) if config.registry else ()
        self._said: dict[str, Desired] = {}
        self._changed_at: float | None = None
        self._settle = SETTLE_SECONDS
        self._written_at = float("-inf")
        self._looked_at = float("-inf")
        self._reported: tuple[int, int] | None = None
        self._complained = False

    def disconnected(self) -> None:
        """Forget what this connection said: on the next one the broker sends what it retains."""
        self._said.clear()
        self._changed_at = None

    def connected(self, now: float) -> None:
        """What the broker retains has come or comes now, and it has to be told the report."""
        self._changed_at, self._settle, self._reported = now, NOTHING_SECONDS, None

    def take(self, message: Inbound, now: float) -> None:
        """Take a message of one of the topics; what cannot be read counts as none."""
        if message.topic not in self.topics:
            return
        desired = parse_desired(message.payload)
        if desired is None:
            self._said.pop(message.topic, None)
            if message.payload:
                log.warning("a desired state on %s cannot be read", message.topic)
        else:
            self._said[message.topic] = desired
        self._changed_at, self._settle = now, SETTLE_SECONDS

    def tick(self, now: float) -> Outbound | None:
        """Write the desired state if it changed; return the report if it has to be published."""
        if not self.topics:
            return None
        settled = self._changed_at is not None and now - self._changed_at >= self._settle
        if settled and now - self._written_at >= WRITE_SECONDS:
            self._changed_at, self._written_at = None, now
            self._write()
        if now - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = now
        return self._report()

    def _write(self) -> None:
        chosen = next((self._said[topic] for topic in self.topics if topic in self._said), None)
        data = b"" if chosen is None else encode_desired(chosen)
        try:
            if (self._path.read_bytes() if self._path.exists() else b"") == data:
                return
            if chosen is None:
                self._path.unlink()
            else:
                publish(self._path, data)
        except OSError as error:  # a full disk must not end the agent
            if not self._complained:
                log.warning("%s cannot be written: %s", self._path, error)
            self._complained = True

    def _report(self) -> Outbound | None:
        try:
            stat = self._report_path.stat()
            if self._reported == (stat.st_mtime_ns, stat.st_ino):
                return None
            with self._report_path.open("rb") as file:
                data = file.read(MAX_UPDATE_BYTES + 1)
        except OSError:
            return None
        self._reported = (stat.st_mtime_ns, stat.st_ino)
        if len(data) > MAX_UPDATE_BYTES:
            return None
        return Outbound(topics.update_topic(self._device), data, retain=True)

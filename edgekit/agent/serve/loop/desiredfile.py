"""What a broker says that this device shall run goes to a file, and the updater's report to the
broker.

The agent has the one connection of the device, so it carries both. It picks the first
desired state in the order of topics, and decides nothing else about them.
A storm of desired states costs a write in `WRITE_SECONDS`, and none where nothing changes.

A desired state that is there and cannot be read counts as one that is not known: the device keeps
what it runs. What stands behind it in the order, such as its group's, may be meant for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import msgspec

from edgekit.agent.release.desired.decide import Desired, encode_desired, parse_desired
from edgekit.core.config import PullConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import MAX_UPDATE_BYTES, UpdatePayload
from edgekit.core.protocol.wire import Inbound, Outbound
from edgekit.core.reading import UNREADABLE
from edgekit.store import publish

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0  # after the last message: a device's own comes with those of its groups
NOTHING_SECONDS = 10.0  # after a connection without a message: a slow link takes its time
WRITE_SECONDS = 5.0
NEXT = "publish it anew, or let the device read it at the broker and have it connect again"
UNDER_WAY = ("fetching", "switching")  # states of a report that end where nothing is known
MAX_REASON = 500
LOOK_SECONDS = 0.5  # between two looks at the report; a rollout waits for three of its words


class DesiredFile:
    """The desired state that counts, and the report.

    Args:
        device: its name.
        config: whether it pulls, and its groups.
        desired: the file of the desired state; `report` that of the updater's report.

    Attributes:
        trouble: why it is not known what this device shall run; empty: it is known.
    """

    def __init__(self, device: str, config: PullConfig, desired: Path, report: Path) -> None:
        self._device, self._path, self._report_path = device, desired, report
        topics_of = [topics.desired_topic(device)]
        topics_of += [topics.group_desired_topic(group) for group in config.groups]
        self.topics = tuple(topics_of) if config.registry else ()
        self._said: dict[str, Desired | None] = {}  # None: it cannot be read
        self._unserved: tuple[str, ...] = ()
        self._connected_at: float | None = None
        self._changed_at: float | None = None
        self._settle = SETTLE_SECONDS
        self._written_at = float("-inf")
        self._looked_at = float("-inf")
        self._reported: tuple[tuple[int, int] | None, str] = (None, "")
        self._complained = False
        self.trouble = ""

    def disconnected(self) -> None:
        """Forget what this connection said: on the next one the broker sends what it retains."""
        self._said.clear()
        self._connected_at = self._changed_at = None

    def connected(self, now: float, unserved: Collection[str] = ()) -> None:
        """What the broker retains has come or comes now, and it has to be told the report.

        Args:
            now: monotonic seconds.
            unserved: filters that the broker does not let this device read.
        """
        self._unserved = tuple(topic for topic in self.topics if topic in unserved)
        self._connected_at = self._changed_at = now
        self._settle, self._reported = NOTHING_SECONDS, (None, "")

    def take(self, message: Inbound, now: float) -> None:
        """Take a message of one of the topics; an empty one takes back what was said there."""
        if message.topic not in self.topics:
            return
        if message.payload:
            self._said[message.topic] = parse_desired(message.payload)
        else:
            self._said.pop(message.topic, None)
        self._changed_at, self._settle = now, SETTLE_SECONDS

    def tick(self, now: float) -> Outbound | None:
        """Write the desired state if it changed; return the report if it has to be published."""
        if not self.topics:
            return None
        if self._settled(now) and now - self._written_at >= WRITE_SECONDS:
            self._written_at = now
            if self._write():
                self._changed_at = None
        if now - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = now
        return self._report()

    def _settled(self, now: float) -> bool:
        """Whether what counts has come. The device's own may come behind that of a group."""
        if self._connected_at is None or self._changed_at is None:
            return False
        due = self._changed_at + self._settle
        if self.topics[0] not in self._said:
            due = max(due, self._connected_at + NOTHING_SECONDS)
        return now >= due

    def _choose(self) -> tuple[Desired | None, str]:
        """The desired state that counts, and why that is not known."""
        for topic in self.topics:
            if topic in self._unserved:
                return None, f"the broker does not let this device read {topic}"
            if topic in self._said:
                said = self._said[topic]
                return said, "" if said else f"what the broker has on {topic} cannot be read"
        return None, ""

    def _write(self) -> bool:
        """Write what counts; False: the disk did not take it, and it has to be tried again."""
        chosen, trouble = self._choose()
        if trouble and trouble != self.trouble:
            log.warning("%s: the device keeps what it runs", trouble)
        self.trouble = trouble
        data = b"" if chosen is None else encode_desired(chosen)
        try:
            if (self._path.read_bytes() if self._path.exists() else b"") == data:
                return True
            if chosen is None:
                self._path.unlink()
            else:
                publish(self._path, data)
        except OSError as error:  # a full disk must not end the agent
            if not self._complained:
                log.warning("%s cannot be written: %s", self._path, error)
            self._complained = True
            return False
        self._complained = False
        return True

    def _report(self) -> Outbound | None:
        try:
            stat = self._report_path.stat()
            found = stat.st_mtime_ns, stat.st_ino
            if self._reported == (found, self.trouble):
                return None
            with self._report_path.open("rb") as file:
                data = file.read(MAX_UPDATE_BYTES + 1)
        except FileNotFoundError:
            if self._reported == (None, self.trouble):
                return None
            found, data = None, b""  # it has never pulled: no report, once the trouble is over
        except OSError:
            return None
        self._reported = found, self.trouble
        if self.trouble:
            data = _in_trouble(data, self.trouble)
        if len(data) > MAX_UPDATE_BYTES:
            return None
        return Outbound(topics.update_topic(self._device), data, retain=True)


def _in_trouble(report: bytes, trouble: str) -> bytes:
    """The last report, with the reason why nothing more comes of it; its file stays as it is."""
    try:
        last = msgspec.json.decode(report, type=UpdatePayload)
    except UNREADABLE:
        last = UpdatePayload(0, "", "waiting")
    reason = f"{trouble}; {last.reason}" if last.reason else trouble
    state = "waiting" if last.state in UNDER_WAY else last.state
    told = msgspec.structs.replace(last, state=state, reason=reason[:MAX_REASON], next=NEXT)
    return msgspec.json.encode(told)

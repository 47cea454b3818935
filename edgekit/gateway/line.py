"""One requester's connection to the broker: prompts and controls go out, replies come in.

paho's thread reads the socket; everything else runs on the event loop of the gateway.
"""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from edgekit.core import topics, wire
from edgekit.core.config import BrokerConfig
from edgekit.mqtt.threaded import MqttClient

PUBACK_SECONDS = 10.0
FLUSH_SECONDS = 1.0  # wait for the PUBACK of what was sent before closing


@dataclass
class Mailbox:
    """The replies to one prompt; `correlations` are those of the messages that were sent."""

    prompt_id: str
    replies: asyncio.Queue[wire.Inbound] = field(default_factory=asyncio.Queue)
    correlations: list[bytes] = field(default_factory=list)


class Line:
    """A connection under a requester's name, made by `connect`.

    Args:
        broker: address and credentials.
        requester: the name; the account must be allowed to ask under it.
        loop: on which replies are delivered.
    """

    def __init__(
        self, broker: BrokerConfig, requester: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.requester = requester
        self._loop = loop
        session = uuid.uuid4().hex[:12]
        # The same for every prompt, because correlation data tells them apart: an ek-id may have
        # characters that no topic has
        self._replies = topics.response_prefix(requester) + session
        self._boxes: dict[bytes, Mailbox] = {}
        self._mqtt = MqttClient(
            broker,
            f"edgekit-gateway-{requester}-{session}",
            subscriptions=[(self._replies, 1)],
            on_message=self._received,
        )

    def connect(self) -> None:
        """Connect and subscribe; it blocks.

        Raises:
            EdgekitError: or one of its kinds: the broker does not answer, or refuses.
        """
        self._mqtt.connect()

    def close(self) -> None:
        """Disconnect; it blocks for a second at most."""
        self._mqtt.close(FLUSH_SECONDS)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection and it is not known to be lost."""
        return self._mqtt.connected

    async def prompt(
        self, device: str, payload: bytes, box: Mailbox, expiry_seconds: float
    ) -> int | None:
        """Publish a prompt; returns the PUBACK's reason code, None if it did not come in time."""
        message = wire.Outbound(
            topic=topics.request_topic(device, self.requester),
            payload=payload,
            response_topic=self._replies,
            correlation=self._expect(box),
            expiry_seconds=max(1, round(expiry_seconds)),
            user=(("ek-id", box.prompt_id),),
        )
        sent: Future[int] = self._mqtt.publish(message)
        try:
            async with asyncio.timeout(PUBACK_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(sent))
        except TimeoutError:
            return None

    def query(self, device: str, box: Mailbox) -> None:
        """Ask the device what became of the prompt."""
        self._control("query", device, box.prompt_id, box)

    def cancel(self, device: str, box: Mailbox) -> None:
        """Have the device stop the prompt; nobody waits for what it says to that."""
        self._control("cancel", device, box.prompt_id, None)

    def forget(self, box: Mailbox) -> None:
        """Replies to this prompt are dropped from now on."""
        for correlation in box.correlations:
            self._boxes.pop(correlation, None)
        box.correlations.clear()

    def _control(self, kind: str, device: str, prompt_id: str, box: Mailbox | None) -> None:
        topic = topics.control_topic(device, self.requester)
        message = wire.Outbound(topic, msgspec.json.encode({"kind": kind, "id": prompt_id}))
        if box is not None:
            message = msgspec.structs.replace(
                message,
                response_topic=self._replies,
                correlation=self._expect(box),
            )
        self._mqtt.publish(message)

    def _expect(self, box: Mailbox) -> bytes:
        correlation = uuid.uuid4().bytes
        box.correlations.append(correlation)
        self._boxes[correlation] = box
        return correlation

    def _received(self, message: wire.Inbound) -> None:
        """On paho's thread."""
        self._loop.call_soon_threadsafe(self._deliver, message)

    def _deliver(self, message: wire.Inbound) -> None:
        box = self._boxes.get(message.correlation)
        if box is not None:
            box.replies.put_nowait(message)

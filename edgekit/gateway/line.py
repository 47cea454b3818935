"""One requester's connection to the broker: prompts and controls go out, replies come in.

All of it runs on the event loop of the gateway.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.errors import UnreachableError
from edgekit.gateway.pump import Pump
from edgekit.mqtt.polled import PolledClient

PUBACK_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 10.0
FLUSH_SECONDS = 1.0  # wait for the PUBACK of what was sent before closing
LOOK_SECONDS = 0.01
MOST_UNSENT = 1000  # controls that wait for a connection; a device ends a prompt at its deadline
# Deltas of a client that reads slowly. Those above it are lost, and the final has their text.
MOST_WAITING = 512


@dataclass
class Mailbox:
    """The replies to one prompt; `correlations` are those of the messages that were sent."""

    prompt_id: str
    replies: asyncio.Queue[wire.Inbound] = field(default_factory=asyncio.Queue)
    correlations: list[bytes] = field(default_factory=list)


class Line:
    """A connection under a requester's name, made by `connect`; used on one event loop.

    Args:
        broker: address and credentials.
        requester: the name; the account must be allowed to ask under it.
    """

    def __init__(self, broker: BrokerConfig, requester: str) -> None:
        self.requester = requester
        self._broker = broker
        session = uuid.uuid4().hex[:12]
        # The same for every prompt, because correlation data tells them apart: an ek-id may have
        # characters that no topic has
        self._replies = topics.response_prefix(requester) + session
        self._boxes: dict[bytes, Mailbox] = {}
        self._unsent: deque[wire.Outbound] = deque(maxlen=MOST_UNSENT)
        self._mqtt = PolledClient(
            broker,
            f"edgekit-gateway-{requester}-{session}",
            subscriptions=[(self._replies, 1)],
            on_message=self._received,
            on_connection=self._changed,
            on_taken_over=self._give_up,
        )
        self.taken_over = False  # by another client of its identifier: it never connects again
        self._sending: set[Future[int]] = set()  # that wait for a PUBACK
        self._subscribed = False
        self._pump = Pump(self._mqtt)

    async def connect(self) -> None:
        """Connect and subscribe.

        Raises:
            EdgekitError: or one of its kinds: the broker does not answer, or refuses.
        """
        until = time.monotonic() + CONNECT_TIMEOUT_SECONDS
        standing = self._mqtt.standing
        self._pump.start()
        while not self._subscribed:
            why = standing.trouble or ("no answer" if time.monotonic() > until else "")
            if standing.refusal or why:
                self._pump.stop()
                self._mqtt.close()
                what = f"the broker at {self._broker} does not answer"
                raise standing.refusal or UnreachableError(what, why)
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Disconnect, once the broker has what was sent, or does not say so for a second."""
        until = time.monotonic() + FLUSH_SECONDS
        while self._sending and self.connected and time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
        self._pump.stop()
        self._mqtt.close()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection and it is not known to be lost."""
        return self._mqtt.connected

    @property
    def why(self) -> str:
        """Why there is no connection."""
        refusal = self._mqtt.standing.refusal
        return f"{refusal.what}: {refusal.why}" if refusal else "the broker does not answer"

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
        try:
            async with asyncio.timeout(PUBACK_SECONDS):
                while not self.connected:
                    await asyncio.sleep(LOOK_SECONDS)
                return await _result(self._publish(message))
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
        if self.connected:
            self._publish(message)
        else:
            self._unsent.append(message)

    def _publish(self, message: wire.Outbound) -> Future[int]:
        sent = self._mqtt.publish(message)
        self._pump.watch()
        self._sending.add(sent)
        sent.add_done_callback(self._sending.discard)
        return sent

    def _expect(self, box: Mailbox) -> bytes:
        correlation = uuid.uuid4().bytes
        box.correlations.append(correlation)
        self._boxes[correlation] = box
        return correlation

    def _changed(self, connected: bool) -> None:
        self._subscribed = self._subscribed or connected
        while connected and self._unsent:
            self._publish(self._unsent.popleft())

    def _give_up(self) -> None:
        self.taken_over = True

    def _received(self, message: wire.Inbound) -> None:
        box = self._boxes.get(message.correlation)
        if box is None:
            return
        is_delta = message.property("ek-kind") == "delta"
        if not is_delta or box.replies.qsize() < MOST_WAITING:
            box.replies.put_nowait(message)


def _result(sent: Future[int]) -> asyncio.Future[int]:
    """The same for who awaits it; all happens on one thread, so nothing has to be woken."""
    waiting = asyncio.get_running_loop().create_future()

    def done(sent: Future[int]) -> None:
        if not waiting.done():  # nobody waits any more
            waiting.set_result(sent.result())

    sent.add_done_callback(done)
    return waiting

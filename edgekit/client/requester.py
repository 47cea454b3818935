"""Requester: prompts a device over MQTT 5 and yields its answer as it comes (docs/protocol.md)."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import msgspec

from edgekit.core import wire
from edgekit.core.config import BrokerConfig, check_name
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt import NO_MATCHING_SUBSCRIBERS, MqttClient

ACCEPT_SECONDS = 15.0  # to the first reply
PUBACK_SECONDS = 10.0
DEFAULT_EXPIRY_SECONDS = 300
RETAINED_SECONDS = 0.5  # how long retained messages are collected


class Accepted(msgspec.Struct, frozen=True):
    """The device has the prompt; `position` prompts are before it."""

    device: str
    position: int


class Delta(msgspec.Struct, frozen=True):
    """The next piece of text."""

    seq: int
    text: str


class Final(msgspec.Struct, frozen=True):
    """The whole answer: a `chat.completion` object."""

    device: str
    completion: dict[str, Any]

    @property
    def text(self) -> str:
        """The assistant's message."""
        return str(self.completion["choices"][0]["message"]["content"])

    @property
    def finish_reason(self) -> str:
        """stop, length or cancelled."""
        return str(self.completion["choices"][0]["finish_reason"])


Reply = Accepted | Delta | Final


class Requester:
    """A connection of its own for prompts; usable from several threads.

    Args:
        broker: where.
        name: one topic level; with an ACL it must be the account's user name.

    Raises:
        UnreachableError: the broker does not answer.
    """

    def __init__(self, broker: BrokerConfig, name: str) -> None:
        self.name = check_name("requester", name)
        self._session = uuid.uuid4().hex[:12]
        self._waiting: dict[bytes, queue.SimpleQueue[wire.Inbound]] = {}
        self._prefix = wire.response_prefix(name) + self._session
        self._mqtt = MqttClient(
            broker,
            f"edgekit-{name}-{self._session}",
            subscriptions=[(f"{self._prefix}/#", 1)],
            on_message=self._received,
        )
        self._mqtt.connect()

    def __enter__(self) -> Requester:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._mqtt.close()

    def ask(
        self,
        device: str,
        body: dict[str, Any],
        *,
        prompt_id: str | None = None,
        expiry_seconds: int = DEFAULT_EXPIRY_SECONDS,
    ) -> Iterator[Reply]:
        """Send a chat-completions body; yields `Accepted`, `Delta`s, then one `Final`.

        Leaving the iterator early cancels the prompt.

        Args:
            device: its name.
            body: OpenAI chat completions, verbatim.
            prompt_id: `ek-id`, the same over retries of one prompt.
            expiry_seconds: deadline of the prompt, 1 to 3600.

        Raises:
            ProtocolError: the device answered with an error.
            UnreachableError: no such device, or it stopped answering.
        """
        check_name("device", device)
        prompt_id = prompt_id or str(uuid.uuid4())
        correlation = uuid.uuid4().bytes
        inbox: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()
        self._waiting[correlation] = inbox
        finished = False
        try:
            self._send(device, body, prompt_id, correlation, expiry_seconds)
            deadline = time.monotonic() + expiry_seconds
            patience = min(ACCEPT_SECONDS, expiry_seconds)
            while True:
                message = self._next(device, inbox, patience)
                # Once accepted, only the deadline counts: others may come first.
                patience = deadline - time.monotonic()
                reply = _read(message)
                finished = isinstance(reply, Final)
                yield reply
                if finished:
                    return
        except wire.ProtocolError:
            finished = True
            raise
        finally:
            del self._waiting[correlation]
            if not finished:
                self.cancel(device, prompt_id)

    def cancel(self, device: str, prompt_id: str) -> None:
        """Ask the device to stop a prompt; it ends in a `Final` that says `cancelled`."""
        payload = msgspec.json.encode({"kind": "cancel", "id": prompt_id})
        self._mqtt.publish(wire.Outbound(wire.control_topic(device, self.name), payload, qos=0))

    def _send(
        self, device: str, body: dict[str, Any], prompt_id: str, correlation: bytes, expiry: int
    ) -> None:
        message = wire.Outbound(
            topic=wire.request_topic(device, self.name),
            payload=msgspec.json.encode(body),
            response_topic=f"{self._prefix}/{prompt_id}",
            correlation=correlation,
            expiry_seconds=expiry,
            user=(("ek-id", prompt_id),),
        )
        try:
            code = self._mqtt.publish(message).result(timeout=PUBACK_SECONDS)
        except TimeoutError:
            raise UnreachableError("the broker did not confirm the prompt") from None
        if code == NO_MATCHING_SUBSCRIBERS:
            raise _nobody(device, "the broker says that nobody has subscribed to its prompts")
        if code >= 0x80:
            raise EdgekitError(
                "the broker refused the prompt",
                f"reason code 0x{code:02x}",
                "may this requester publish there? The topic's last level must be its user name",
            )

    def _next(
        self, device: str, inbox: queue.SimpleQueue[wire.Inbound], patience: float
    ) -> wire.Inbound:
        try:
            return inbox.get(timeout=max(patience, 0.01))
        except queue.Empty:
            raise _nobody(device, f"no reply for {max(patience, 0):.0f} s") from None

    def _received(self, message: wire.Inbound) -> None:
        inbox = self._waiting.get(message.correlation)
        if inbox is not None:
            inbox.put(message)


def _nobody(device: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"{device} does not answer", why, "`edgekit devices` shows who is there"
    )


def _read(message: wire.Inbound) -> Reply:
    kind = message.property("ek-kind")
    device = message.property("ek-dev")
    if kind == "error":
        raise wire.ProtocolError.decode(message.payload)
    try:
        body = msgspec.json.decode(message.payload)
        if kind == "accepted":
            return Accepted(device, body["position"])
        if kind == "delta":
            return Delta(body["seq"], body["choices"][0]["delta"]["content"])
        final = Final(device, body)
        _ = final.text, final.finish_reason
    except (*wire.UNREADABLE, KeyError, IndexError, TypeError) as error:
        raise EdgekitError(f"{device}'s reply cannot be read", repr(error)) from error
    return final


def devices(broker: BrokerConfig, name: str) -> dict[str, dict[str, Any]]:
    """Who is there: card and status of every device, from retained messages.

    Returns:
        By device name: `{"card": {...}, "status": {...}}`.
    """
    found: dict[str, dict[str, Any]] = {}

    def received(message: wire.Inbound) -> None:
        device, _, kind = message.topic.removeprefix(f"{wire.PREFIX}/dev/").partition("/")
        with suppress(*wire.UNREADABLE):  # retained by somebody who is no agent
            body = msgspec.json.decode(message.payload, type=dict[str, Any])
            found.setdefault(device, {})[kind] = body

    filters = [(wire.card_topic("+"), 1), (wire.status_topic("+"), 1)]
    session = uuid.uuid4().hex[:12]
    client = MqttClient(
        broker, f"edgekit-{name}-{session}", subscriptions=filters, on_message=received
    )
    client.connect()
    time.sleep(RETAINED_SECONDS)
    client.close()
    return dict(sorted(found.items()))

"""The requester: sends a prompt over MQTT 5 and yields the answer as it arrives (docs/protocol)."""

from __future__ import annotations

import queue
import random
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import msgspec

from edgekit.client.announced import announced
from edgekit.client.asking import Asking, Do
from edgekit.client.pictures import (
    SentPicture,
    Source,
    check_count,
    limits_of,
    shrink,
    with_pictures,
)
from edgekit.client.reply import Delta, Final, Reply, read_reply, read_state, sender
from edgekit.core import finite
from edgekit.core.config import BrokerConfig, check_name
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.reasons import FAILURE, NO_MATCHING_SUBSCRIBERS, PACKET_TOO_LARGE
from edgekit.errors import EdgekitError, UnreachableError, UsageError
from edgekit.mqtt.threaded import MqttClient

PUBACK_SECONDS = 10.0
POOL = "pool:"  # stands before a pool's name; a device's name has no colon
DEFAULT_EXPIRY_SECONDS = 300
FLUSH_SECONDS = 1.0  # wait for the PUBACK of a cancel before closing the connection
LOOKS_AT = 2  # before this attempt, check whether the broker knows the device at all
NAMED = 5  # devices that an error names


class Requester:
    """A connection to the broker for prompts; several threads may use it.

    Args:
        broker: address and credentials.
        name: the requester's name, one topic level; with an ACL it is the account's user name.

    Raises:
        UnreachableError: the broker does not answer.
    """

    def __init__(self, broker: BrokerConfig, name: str) -> None:
        self.name = check_name("requester", name)
        self._broker = broker
        self._session = uuid.uuid4().hex[:12]
        self._waiting: dict[bytes, queue.SimpleQueue[wire.Inbound]] = {}
        self._prefix = topics.response_prefix(name) + self._session
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
        self._mqtt.close(FLUSH_SECONDS)

    def ask(
        self,
        to: str,
        body: dict[str, Any],
        *,
        images: Sequence[Source | SentPicture] = (),
        prompt_id: str | None = None,
        expiry_seconds: int = DEFAULT_EXPIRY_SECONDS,
    ) -> Generator[Reply, None, None]:
        """Send a chat-completions body; yields `Accepted`, `Delta`s, then one `Final`.

        The requester sends it again, and queries it, by the rules of the protocol. A caller that
        tries again after an `UnreachableError` passes the same `prompt_id`. Leaving the iterator
        early cancels the prompt.

        Args:
            to: a device's name, or `pool:NAME`.
            body: OpenAI chat completions, verbatim.
            images: pictures that the last message shows: files, bytes, or what `shrink` returned.
            prompt_id: the `ek-id`, the same for all retries of one prompt.
            expiry_seconds: deadline of the prompt in seconds, 1 to 3600.

        Raises:
            ProtocolError: the device answered with an error.
            UnreachableError: the device does not exist, or it stopped answering.
            UsageError: a name or the expiry is out of bounds, a picture cannot be sent, or the body
                has what JSON has not.
        """
        if not 1 <= expiry_seconds <= wire.MAX_EXPIRY_SECONDS:
            raise UsageError(
                f"a prompt cannot wait for {expiry_seconds} s",
                f"a deadline is 1 to {wire.MAX_EXPIRY_SECONDS} seconds away",
                "choose another one",
            )
        pool = check_name("pool", to.removeprefix(POOL)) if to.startswith(POOL) else ""
        device = "" if pool else check_name("device", to)
        if images:
            body = with_pictures(body, self.shrink(to, images))
        question = _Question(prompt_id or str(uuid.uuid4()), _encoded(body), pool)
        inbox: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()
        asking = Asking(time.monotonic() + expiry_seconds, device)
        finished = False
        try:
            for message in self._messages(question, asking, inbox):
                reply = read_reply(message)
                finished = isinstance(reply, Final)
                asking.reply(sender(message), time.monotonic(), delta=isinstance(reply, Delta))
                yield reply
                if finished:
                    return
        except (wire.ProtocolError, UnreachableError):
            finished = True  # there is nothing to cancel, or the caller may try again
            raise
        finally:
            for correlation in question.correlations:
                del self._waiting[correlation]
            if not finished:
                self._control("cancel", question, asking)

    def shrink(self, to: str, images: Sequence[Source | SentPicture]) -> list[SentPicture]:
        """Make of pictures what a device gets: not larger than its card says.

        Args:
            to: a device's name, or `pool:NAME`.
            images: files, or their bytes; a `SentPicture` stays as it is.

        Raises:
            UsageError: a file is no picture, the device does not take it, or Pillow is missing.
        """
        limits = limits_of(to, self._cards(to))
        check_count(to, len(images), limits)
        return [one if isinstance(one, SentPicture) else shrink(one, limits) for one in images]

    def _cards(self, to: str) -> dict[str, dict[str, Any]]:
        """The cards of a device or of a pool's members, as far as the broker shows them."""
        pool = to.removeprefix(POOL) if to.startswith(POOL) else ""
        topic = topics.card_topic("+" if pool else check_name("device", to))
        told = announced(self._broker, self.name, [topic])
        cards = {name: kinds["card"] for name, kinds in told.items() if "card" in kinds}
        if not pool:
            return cards
        return {name: card for name, card in cards.items() if pool in _pools(card)}

    def cancel(self, to: str, prompt_id: str) -> None:
        """Tell who has a prompt to stop it, which then ends in a `Final` that says `cancelled`.

        Args:
            to: a device's name, or `pool:NAME`, all of whose devices hear it.
        """
        pool = to.removeprefix(POOL) if to.startswith(POOL) else ""
        self._control("cancel", _Question(prompt_id, b"", pool), Asking(0.0, "" if pool else to))

    def _messages(
        self, question: _Question, asking: Asking, inbox: queue.SimpleQueue[wire.Inbound]
    ) -> Iterator[wire.Inbound]:
        """Yield the replies, and meanwhile send and query the prompt by the protocol's rules."""
        do, until = asking.next(time.monotonic(), random.random())  # noqa: S311  no secret
        while True:
            if do is Do.GIVE_UP and inbox.empty():  # else the caller was slow, not the device
                if asking.device:
                    self._look_for(asking.device, must_exist=False)
                raise _nobody(question.named or asking.device, asking.why)
            if do is Do.SEND:
                if asking.attempts == LOOKS_AT and asking.device:
                    self._look_for(asking.device)
                self._send(question, asking, inbox)
            elif do is Do.QUERY:
                self._control("query", question, asking, inbox)
            try:
                message = inbox.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                do, until = asking.next(time.monotonic(), random.random())  # noqa: S311  no secret
                continue
            if message.property("ek-kind") == "state":
                now = time.monotonic()
                if read_state(message) == "unknown":
                    do, until = asking.unknown(now, random.random())  # noqa: S311  no secret
                    continue
                asking.reply(sender(message), now)
            elif asking.concerns(sender(message), message.property("ek-kind")):
                yield message
            do, until = asking.next(time.monotonic(), random.random())  # noqa: S311  no secret

    def _send(
        self, question: _Question, asking: Asking, inbox: queue.SimpleQueue[wire.Inbound]
    ) -> None:
        """Publish the prompt, and wait at most `PUBACK_SECONDS` for its PUBACK.

        Without a PUBACK the MQTT client sends it again once it has reconnected.
        """
        topic = topics.request_topic(asking.device, self.name)
        if not asking.device:
            topic = topics.pool_request_topic(question.pool, self.name)
        message = wire.Outbound(
            topic=topic,
            payload=question.payload,
            response_topic=f"{self._prefix}/{question.prompt_id}",
            correlation=self._new_correlation(question, inbox),
            expiry_seconds=max(1, round(asking.deadline - time.monotonic())),
            user=(("ek-id", question.prompt_id),),
        )
        with suppress(TimeoutError):
            code = self._mqtt.publish(message).result(timeout=PUBACK_SECONDS)
            if code == PACKET_TOO_LARGE:
                raise _too_large(len(question.payload), self._mqtt.max_packet_bytes)
            if code == NO_MATCHING_SUBSCRIBERS and asking.attempts == 1:
                if asking.device:
                    self._look_for(asking.device, must_exist=False)
                raise _nobody(
                    question.named or asking.device,
                    "the broker says that nobody has subscribed to its prompts",
                )
            if code >= FAILURE:
                raise EdgekitError(
                    "the broker refused the prompt",
                    f"reason code 0x{code:02x}",
                    "check the broker's ACL: a requester may publish only below its own user name",
                )

    def _look_for(self, device: str, *, must_exist: bool = True) -> None:
        """Check that the device has announced itself: some brokers report no missing subscriber.

        When the broker knows no device at all, an ACL may have kept the announcements back, and the
        check passes. The device's own filter comes first: a large fleet's announcements do not all
        arrive in time.

        Args:
            device: its name.
            must_exist: whether a device counts as unknown where others have announced themselves.

        Raises:
            UnreachableError: the device is unknown, or its status says that it is gone.
        """
        known: dict[str, dict[str, Any]] = {}
        filters = [topics.status_topic(device), topics.status_topic("+")]
        with suppress(EdgekitError):  # a failed check must not end the prompt
            known = announced(self._broker, self.name, filters)
        state = known.get(device, {}).get("status", {}).get("state")
        if isinstance(state, str) and state in GONE:
            raise UnreachableError(f"{device} does not answer", *GONE[state])
        if must_exist and known and device not in known:
            more = ", …" if len(known) > NAMED else ""
            names = ", ".join(list(known)[:NAMED])
            raise _nobody(device, f"the broker knows no such device, only {names}{more}")

    def _control(
        self,
        kind: str,
        question: _Question,
        asking: Asking,
        inbox: queue.SimpleQueue[wire.Inbound] | None = None,
    ) -> None:
        """Publish a control message; the inbox, if any, receives its reply."""
        topic = topics.control_topic(asking.device, self.name)
        if not asking.device:
            topic = topics.pool_control_topic(question.pool, self.name)
        payload = msgspec.json.encode({"kind": kind, "id": question.prompt_id})
        message = wire.Outbound(topic, payload)
        if inbox is not None:
            message = msgspec.structs.replace(
                message,
                response_topic=f"{self._prefix}/{question.prompt_id}",
                correlation=self._new_correlation(question, inbox),
            )
        self._mqtt.publish(message)

    def _new_correlation(
        self, question: _Question, inbox: queue.SimpleQueue[wire.Inbound]
    ) -> bytes:
        correlation = uuid.uuid4().bytes
        question.correlations.append(correlation)
        self._waiting[correlation] = inbox
        return correlation

    def _received(self, message: wire.Inbound) -> None:
        inbox = self._waiting.get(message.correlation)
        if inbox is not None:
            inbox.put(message)


@dataclass(frozen=True)
class _Question:
    """One prompt and the Correlation Data of each message that carried it."""

    prompt_id: str
    payload: bytes
    pool: str
    correlations: list[bytes] = field(default_factory=list)

    @property
    def named(self) -> str:
        """The pool as a user names it; empty for a prompt to one device."""
        return f"{POOL}{self.pool}" if self.pool else ""


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return finite.encode(body)
    except (ValueError, TypeError) as error:  # also half a surrogate pair, and what is no JSON
        raise UsageError("the prompt is no JSON", str(error), "correct its body") from None


# The status of a device that does not listen: why, and the next step
GONE = {
    "lost": (
        "its status is `lost`: its connection to the broker broke off",
        "is it switched on, and is its network up? It goes on with its prompts when it is back",
    ),
    "offline": (
        "its status is `offline`: its agent was stopped",
        "`edgekit push` starts it",
    ),
}


def _too_large(size_bytes: int, limit_bytes: int) -> wire.ProtocolError:
    """The error that a device gives for a prompt above its own limit; nothing was sent."""
    text = (
        f"the prompt has {size_bytes} bytes, and the broker takes messages of at most "
        f"{limit_bytes} (max_packet_size)"
    )
    return wire.ProtocolError("payload_too_large", text)


def _pools(card: dict[str, Any]) -> list[Any]:
    pools = card.get("pools")
    return pools if isinstance(pools, list) else []


def _nobody(device: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"{device} does not answer",
        why,
        "`edgekit devices` shows the devices that the broker knows",
    )

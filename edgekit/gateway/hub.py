"""What a running gateway holds: devices, connections, prompts under way, counts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgekit.client.announced import RETAINED_QOS
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.errors import EdgekitError
from edgekit.gateway import catalog
from edgekit.gateway.affinity import Affinity
from edgekit.gateway.body import ApiRequest
from edgekit.gateway.catalog import Served
from edgekit.gateway.exchange import Exchange
from edgekit.gateway.keys import KeyRing
from edgekit.gateway.line import Line
from edgekit.gateway.refusals import HttpError, of_code, unreachable
from edgekit.mqtt.threaded import MqttClient

MOST_REMEMBERED = 10_000  # prompts with an Idempotency-Key
BUSY_MS = 1000
_RETAINED = (topics.card_topic, topics.status_topic, topics.metrics_topic)
RETAINED_SECONDS = 0.5  # without a retained message, then the broker has sent all that it keeps
MOST_RETAINED_SECONDS = 10.0  # for all of them
LAST_SECONDS = 2.0  # for answers that a stop has ended


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway serves.

    Attributes:
        keys: the file of API keys.
        broker: for the devices' cards, and for the prompts of all requesters.
        passwords: a folder with a password for each requester, which then has an account of its
            own at the broker; None: all of them share the account of `broker`.
        deadline: of a prompt that names none, in seconds.
        streams: answers under way at once; one requester may have half of them.
        drain_seconds: that those have to end when the gateway stops.
    """

    keys: Path
    broker: BrokerConfig
    passwords: Path | None = None
    deadline: int = 300
    streams: int = 256
    drain_seconds: float = 30.0


class Hub:
    """Made once for a gateway; `start` and `stop` run on its event loop."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.keys = KeyRing(settings.keys)
        self.known: dict[str, Served] = {}
        self.mine: Counter[str] = Counter()
        self.affinity = Affinity()
        self.requests: Counter[int] = Counter()
        self.elsewhere = self.streams = 0
        self.draining = False
        # of what the broker tells of devices: topic, payload, whether the broker kept it; on the
        # event loop
        self.listeners: list[Callable[[str, bytes, bool], None]] = []
        self._streams: Counter[str] = Counter()  # of each requester
        self._running: set[tuple[str, str]] = set()
        self._remembered: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lines: dict[str, Line] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._watch: MqttClient | None = None

    async def start(self) -> None:
        """Connect to the broker and read what it keeps of devices, before anybody asks for one.

        Raises:
            EdgekitError: or one of its kinds: the broker does not answer, or refuses.
        """
        loop = asyncio.get_running_loop()

        last = 0.0

        def received(message: wire.Inbound) -> None:
            nonlocal last
            last = time.monotonic() if message.retain else last
            loop.call_soon_threadsafe(self._heard, message.topic, message.payload, message.retain)

        self._watch = MqttClient(
            self.settings.broker,
            f"edgekit-gateway-{uuid.uuid4().hex[:12]}",
            subscriptions=[(each("+"), RETAINED_QOS) for each in _RETAINED],
            on_message=received,
            retained=True,
        )
        await asyncio.to_thread(self._watch.connect)
        last = began = time.monotonic()
        while time.monotonic() < min(last + RETAINED_SECONDS, began + MOST_RETAINED_SECONDS):
            await asyncio.sleep(RETAINED_SECONDS / 10)

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        catalog.heard(self.known, topic, payload)
        for listener in self.listeners:
            listener(topic, payload, retained)

    async def stop(self) -> None:
        """Disconnect from the broker, once what was cancelled has told its device so."""
        until = time.monotonic() + LAST_SECONDS
        while self.streams and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        await asyncio.gather(*(each.close() for each in self._lines.values()))
        if self._watch is not None:
            await asyncio.to_thread(self._watch.close)

    @property
    def connected(self) -> bool:
        """Whether the broker answers."""
        return self._watch is not None and self._watch.connected

    async def line(self, requester: str) -> Line:
        """The requester's connection, made for its first prompt; raises HttpError."""
        if (before := self._lines.get(requester)) is not None and before.taken_over:
            del self._lines[requester]
            await before.close()
        if requester not in self._lines:
            # Shielded: its client may go away, and others wait for the same connection
            await asyncio.shield(self._connecting.get(requester) or self._connect_soon(requester))
        line = self._lines[requester]
        if not line.connected:
            raise unreachable(f"{line.why}; the gateway connects again by itself")
        return line

    def _connect_soon(self, requester: str) -> asyncio.Task[None]:
        def done(task: asyncio.Task[None]) -> None:
            del self._connecting[requester]
            if not task.cancelled():
                task.exception()  # those who wait have it

        task = self._connecting[requester] = asyncio.create_task(self._connect(requester))
        task.add_done_callback(done)
        return task

    async def _connect(self, requester: str) -> None:
        made = Line(self._account(requester), requester)
        try:
            await made.connect()
        except EdgekitError as error:
            raise unreachable(f"{error.what}: {error.why}") from error
        self._lines[requester] = made

    def devices_for(self, requester: str, asked: ApiRequest, idempotency: str) -> list[Served]:
        """The devices that may get a prompt, the one to ask first in front; raises HttpError."""
        found = catalog.named(self.known, asked.model)
        if idempotency and (had := self._remembered.get((requester, idempotency))):
            return [self._again(had, found, asked.model)]
        if not found:
            raise of_code(
                "model_not_found",
                f"no device serves {asked.model!r}: GET /v1/models lists models, `pool:NAME` and "
                "`device:NAME`",
                "model",
            )
        keeps = self.affinity.device(requester, asked.messages)
        found = catalog.able(found, asked.needs)
        ordered = catalog.order(found, self.mine, keeps=keeps, prompt_id=idempotency)
        if not ordered:
            raise unreachable(
                f"no device takes a prompt for {asked.model}: {catalog.why_none(found)}"
            )
        return ordered

    def _again(self, had: str, found: list[Served], model: str) -> Served:
        """The device that has a prompt, or its outcome, which is asked for once more."""
        if had not in self.known:
            raise unreachable(f"{had}, which has the prompt of this Idempotency-Key, is gone")
        for each in found:
            if each.name == had:
                return each
        raise HttpError(
            409,
            "id_conflict",
            f"{had} has the prompt of this Idempotency-Key, and {model!r} does not name it: take "
            "another key for another prompt",
        )

    @contextmanager
    def running(self, requester: str, prompt_id: str) -> Iterator[None]:
        """Count an answer under way; raises HttpError where there are too many, or it is there."""
        if self.draining:
            raise of_code("draining", "the gateway is about to stop")
        if self.streams >= self.settings.streams:
            raise HttpError(
                429,
                "rate_limited",
                f"{self.streams} answers are under way, as many as this gateway takes at once",
                retry=True,
                retry_after_ms=BUSY_MS,
            )
        most = max(1, self.settings.streams // 2)
        if self._streams[requester] >= most:
            raise HttpError(
                429,
                "rate_limited",
                f"{most} answers for {requester} are under way, as many as one requester may have",
                retry=True,
                retry_after_ms=BUSY_MS,
            )
        if (requester, prompt_id) in self._running:
            raise HttpError(
                409,
                "id_conflict",
                "another request with this Idempotency-Key is being answered",
                retry=True,
                retry_after_ms=BUSY_MS,
            )
        self.streams += 1
        self._streams[requester] += 1
        self._running.add((requester, prompt_id))
        try:
            yield
        finally:
            self.streams -= 1
            self._streams[requester] -= 1
            self._running.discard((requester, prompt_id))

    def answered(self, requester: str, prompt_id: str) -> None:
        """Note that the final answer is there: its client may send the same Idempotency-Key again.

        The client has read the answer before the connection's task has ended.
        """
        self._running.discard((requester, prompt_id))

    async def exchange(
        self, requester: str, asked: ApiRequest, idempotency: str, prompt_id: str, deadline: int
    ) -> Exchange:
        """Prepare a prompt; raises HttpError."""
        devices = self.devices_for(requester, asked, idempotency)
        return Exchange(
            line=await self.line(requester),
            prompt_id=prompt_id,
            payload=lambda device: asked.payload(device.model),
            devices=devices,
            state_of=lambda name: self.known[name].state if name in self.known else "",
            deadline=time.monotonic() + deadline,
            keep=bool(idempotency),
            on_device=self._counting(),
            on_accepted=self._remembering(requester, idempotency),
        )

    def _counting(self) -> Callable[[str, int], None]:
        asked = 0

        def changed(device: str, change: int) -> None:
            nonlocal asked
            self.mine[device] += change
            asked += change > 0
            self.elsewhere += change > 0 and asked > 1

        return changed

    def _remembering(self, requester: str, idempotency: str) -> Callable[[str], None]:
        def accepted(device: str) -> None:
            if idempotency:
                self._remembered[requester, idempotency] = device
                if len(self._remembered) > MOST_REMEMBERED:
                    self._remembered.popitem(last=False)

        return accepted

    def _account(self, requester: str) -> BrokerConfig:
        folder = self.settings.passwords
        if folder is None:
            return self.settings.broker
        return msgspec.structs.replace(
            self.settings.broker,
            username=requester,
            password_file=str((folder / requester).resolve()),
        )

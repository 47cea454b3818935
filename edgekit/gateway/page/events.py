"""`GET /fleet/events`: the fleet as server-sent events, for as long as somebody reads them.

The first event has everything, the later ones what has changed. They come every `PAUSE_SECONDS`, so
a device that changes often is told once, and to all watchers at the same time, so that what has
changed is encoded once for all of them. Who does not read is cut off after
`UNREAD_SECONDS`, and who has a key that was revoked, after `COMMENT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from edgekit.gateway.hub import BUSY_MS, Hub
from edgekit.gateway.page.facts import Facts
from edgekit.gateway.page.fleet import SLOT_SECONDS, SLOTS, FleetTold, slot
from edgekit.gateway.refusals import HttpError

PAUSE_SECONDS = 0.5
COMMENT_SECONDS = 10.0  # a proxy ends a connection on which nothing comes
UNREAD_SECONDS = 30.0
MOST_WATCHERS = 64
MOST_OF_ONE = 16  # requester
STREAM = "text/event-stream; charset=utf-8"
HEADERS = {
    "content-type": STREAM,
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
}


class Watching:
    """What all watchers of one gateway share."""

    def __init__(self, hub: Hub, facts: Facts) -> None:
        self.hub, self.facts = hub, facts
        self.fleet = FleetTold()
        self.watchers: Counter[str] = Counter()  # by requester
        self._encoded: tuple[tuple[int, int, bool], bytes] = (-1, 0, False), b""
        hub.listeners.append(self._heard)

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        at = slot(time.monotonic())
        self.fleet.heard(topic, payload, time.time(), at, retained=retained)

    async def whole(self) -> dict[str, Any]:
        """Everything that is known now."""
        project = await self.facts.now()
        return {
            "at": time.time(),
            "broker": self.hub.connected,
            "slot_seconds": SLOT_SECONDS,
            "devices": self.fleet.changes().devices,
            "lines": self.fleet.lines(slot(time.monotonic())),
            **msgspec.structs.asdict(project),
        }

    def devices(self, seen: int, connected: bool) -> bytes:
        """The event of what has changed after that number; the last one is kept."""
        which = seen, self.fleet.number, connected
        if which != self._encoded[0]:
            changes = self.fleet.changes(seen)
            body = {"devices": changes.devices, "gone": changes.gone, "broker": connected}
            self._encoded = which, event("devices", body)
        return self._encoded[1]

    def check_room(self, requester: str) -> None:
        """Raises HttpError where as many watch as may."""
        if self.watchers.total() >= MOST_WATCHERS or self.watchers[requester] >= MOST_OF_ONE:
            raise HttpError(
                429,
                "rate_limited",
                f"{self.watchers.total()} watch the fleet, {self.watchers[requester]} of them as "
                f"{requester}: {MOST_WATCHERS} may, and {MOST_OF_ONE} of one requester",
                retry=True,
                retry_after_ms=BUSY_MS,
            )


class FleetEvents:
    """One answer, as an ASGI application.

    Args:
        watching: of the gateway.
        requester: who watches.
        permitted: whether the key that was presented still counts.
    """

    def __init__(self, watching: Watching, requester: str, permitted: Callable[[], bool]) -> None:
        self._watching, self._requester, self._permitted = watching, requester, permitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes, does not read, or the gateway stops."""
        self._watching.check_room(self._requester)
        self._watching.watchers[self._requester] += 1
        self._watching.hub.requests[200] += 1
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with suppress(TimeoutError):  # it did not read: the server ends the connection
                    sending.result()
        finally:
            self._watching.watchers[self._requester] -= 1
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        raw = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for data in self._events():
            async with asyncio.timeout(UNREAD_SECONDS):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _events(self) -> AsyncIterator[bytes]:
        hub, fleet, facts = self._watching.hub, self._watching.fleet, self._watching.facts
        seen, at = fleet.number, slot(time.monotonic())
        connected = hub.connected
        yield event("fleet", await self._watching.whole())
        project, spoke = await facts.now(), time.monotonic()
        while not hub.draining:
            await asyncio.sleep(PAUSE_SECONDS - time.monotonic() % PAUSE_SECONDS)
            told = []
            before, connected = connected, hub.connected
            if fleet.number != seen or connected != before:
                told.append(self._watching.devices(seen, connected))
                seen = fleet.number
            if (ended := slot(time.monotonic())) > at:
                late = range(max(at, ended - SLOTS), ended)
                told += [event("speeds", fleet.speeds(each)) for each in late]
                at = ended
            if (newer := await facts.now()) != project:
                project = newer
                told.append(event("project", msgspec.structs.asdict(project)))
            if time.monotonic() - spoke >= COMMENT_SECONDS:
                spoke = time.monotonic()
                if not self._permitted():
                    return
                told.append(b": still here\n\n")
            if told:
                yield b"".join(told)


def event(name: str, body: Any) -> bytes:
    """One event; JSON has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(body))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

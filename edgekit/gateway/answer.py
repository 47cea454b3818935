"""The answer to one HTTP request, as an ASGI application: whole, or as a stream.

A client that disconnects ends it, and with it the prompt. The head of a stream waits for the first
piece of text, so that an error has its own status; after `HEAD_SECONDS` it goes out regardless,
lest the client takes the silence of a queue for a dead server. A client that reads too slowly is
cut off `UNREAD_SECONDS` after the deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from edgekit.core.protocol import wire
from edgekit.core.reading import UNREADABLE
from edgekit.gateway.body import ApiRequest
from edgekit.gateway.exchange import DeviceReply
from edgekit.gateway.hub import Hub
from edgekit.gateway.refusals import HttpError, of_code

log = logging.getLogger(__name__)

HEAD_SECONDS = 15.0
UNREAD_SECONDS = 30  # a client that takes nothing for so long is cut off


class Shape(Protocol):
    """How an API writes one answer: `whole`, or `begin`, each `delta`, and `final` or `failed`."""

    media_type: str  # of a stream

    @property
    def waiting(self) -> bytes:
        """What goes out while nothing comes."""

    def begin(self, model: str) -> bytes:
        """A device that serves this model has begun."""

    def delta(self, body: dict[str, Any]) -> bytes:
        """A delta came; empty where a client gets nothing of it."""

    def final(self, completion: dict[str, Any]) -> bytes:
        """The answer is complete; raises HttpError."""

    def whole(self, completion: dict[str, Any]) -> bytes:
        """The JSON of the answer; raises HttpError."""

    def failed(self, error: HttpError) -> bytes:
        """The stream ends in an error."""


class HttpAnswer:
    """One answer.

    Args:
        hub: of the gateway.
        requester: who asks.
        asked: the request.
        shape: of the API by which it was asked.
        prompt_id: the `ek-id`.
        idempotency: the Idempotency-Key, if one was given: the prompt then outlives this request.
        deadline: in seconds.
    """

    def __init__(
        self,
        hub: Hub,
        requester: str,
        asked: ApiRequest,
        shape: Shape,
        *,
        prompt_id: str,
        idempotency: str,
        deadline: int,
    ) -> None:
        self._hub, self._requester, self._asked = hub, requester, asked
        self._shape = shape
        self._prompt_id, self._idempotency, self._deadline = prompt_id, idempotency, deadline
        self._started = self._counted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """HttpAnswer; a client that goes away ends it."""
        with self._hub.running(self._requester, self._prompt_id):
            answering = asyncio.create_task(self._answer(send))
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait(
                    {answering, gone},
                    timeout=self._deadline + UNREAD_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if answering.done():
                    answering.result()
                elif not gone.done():
                    log.warning("a client did not read its answer in time")
            except asyncio.CancelledError:  # a drain that took too long
                await _end(answering)
                await self._stopped(send)
            finally:
                await _end(answering, gone)
                if self._started:  # its client went away
                    self._count(200)

    async def _stopped(self, send: Send) -> None:
        """Say that the gateway stops, as far as it can still be said."""
        stops = of_code("draining", "the gateway stopped before the answer was complete")
        if not self._started:
            raise stops
        if self._asked.stream:
            self._count(stops.status)
            await send(_part(self._shape.failed(stops)))
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, send: Send) -> None:
        exchange = await self._hub.exchange(
            self._requester, self._asked, self._idempotency, self._prompt_id, self._deadline
        )
        async with aclosing(exchange.replies()) as replies:
            if self._asked.stream:
                await self._stream(replies, send)
            else:
                await self._whole(replies, send)

    async def _whole(self, replies: AsyncIterator[DeviceReply | None], send: Send) -> None:
        async for reply in replies:
            if reply is not None and reply.kind == "final":
                await self._send_whole(reply, send)
                return

    async def _send_whole(self, final: DeviceReply, send: Send) -> None:
        with _readable(final.device):
            self._note(final)
            data = self._shape.whole(final.body)
        self._count(200)
        await self._head(send, wire.JSON, final.device, length=len(data))
        await send({"type": "http.response.body", "body": data})

    async def _stream(self, replies: AsyncIterator[DeviceReply | None], send: Send) -> None:
        began, answering = time.monotonic(), False
        try:
            async for reply in replies:
                data = b""
                if reply is None:
                    if self._started or time.monotonic() - began >= HEAD_SECONDS:
                        data = self._shape.waiting
                elif reply.kind in ("delta", "final"):
                    if not answering:
                        answering = True
                        device = self._hub.known.get(reply.device)
                        data = self._shape.begin(device.model if device else self._asked.model)
                    with _readable(reply.device):
                        data += self._shaped(reply)
                if data:
                    if not self._started:
                        await self._head(
                            send, self._shape.media_type, reply.device if reply else ""
                        )
                    await send(_part(data))
        except HttpError as refused:
            if not self._started:
                raise
            self._count(refused.status)
            await send(_part(self._shape.failed(refused)))
        self._count(200)
        await send({"type": "http.response.body", "body": b""})

    def _count(self, status: int) -> None:
        """Count the request once: a stream that ends in an error as that error."""
        if not self._counted:
            self._counted = True
            self._hub.requests[status] += 1

    def _shaped(self, reply: DeviceReply) -> bytes:
        if reply.kind == "delta":
            return self._shape.delta(reply.body)
        self._note(reply)
        return self._shape.final(reply.body)

    def _note(self, final: DeviceReply) -> None:
        """The device now keeps this conversation, if it answered it to the end."""
        self._hub.answered(self._requester, self._prompt_id)
        message = final.body["choices"][0]["message"]
        self._hub.affinity.note(self._requester, self._asked.messages, message, final.device)

    async def _head(self, send: Send, kind: str, device: str, length: int | None = None) -> None:
        headers = {"content-type": kind, "x-request-id": self._prompt_id}
        if device:
            headers["edgekit-device"] = device
        if length is not None:
            headers["content-length"] = str(length)
        else:
            headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._started = True
        raw = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()
        ]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


@contextmanager
def _readable(device: str) -> Iterator[None]:
    """A reply of another shape than the protocol's is its device's failure; raises HttpError."""
    try:
        yield
    except (*UNREADABLE, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        text = f"a reply of {device} cannot be read: {error!r}"
        raise HttpError(502, "internal", text) from error


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass

"""One prompt from the choice of a device to its outcome.

Before a device has accepted the prompt, another one may get it. Afterwards the device is asked what
became of it (`query`), never another one; what nobody waits for any more is cancelled.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from edgekit.client.asking import Asking, Do
from edgekit.client.reply import read_state
from edgekit.core.protocol import wire
from edgekit.core.protocol.reasons import (
    FAILURE,
    NO_MATCHING_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    QUOTA_EXCEEDED,
)
from edgekit.core.reading import UNREADABLE
from edgekit.gateway.catalog import Served
from edgekit.gateway.line import Line, Mailbox
from edgekit.gateway.refusals import HttpError, of_code, of_device, unreachable

LOOKS_SECONDS = 0.5  # between looks whether a device that has not answered yet has gone
ELSEWHERE_SECONDS = 5.0  # without an answer, then another device gets the prompt if there is one
TICK_SECONDS = 10.0  # the longest time without an item


class DeviceReply(msgspec.Struct, frozen=True):
    """A reply that a client is to see: kind and body, and the device that sent it."""

    device: str
    kind: str  # accepted, delta or final
    body: dict[str, Any]


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _Piece(msgspec.Struct):
    delta: _Message


class _Final(msgspec.Struct):
    id: str
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: dict[str, Any]


class _Delta(msgspec.Struct):
    seq: int
    choices: Annotated[list[_Piece], msgspec.Meta(min_length=1)]


# What the gateway reads of each kind of reply; the rest is passed on as it is
_SHAPES: dict[str, Any] = {"accepted": dict[str, Any], "delta": _Delta, "final": _Final}


@dataclass
class Exchange:
    """One prompt of a requester.

    Args:
        line: the requester's.
        prompt_id: the `ek-id`.
        payload: makes the body for a device.
        devices: to be asked, in this order, if those before have not accepted it.
        state_of: what a device's retained status says now.
        deadline: of the prompt, by `time.monotonic`.
        keep: whether the prompt goes on when nobody waits for it any more, because it may be
            asked for again.
    """

    line: Line
    prompt_id: str
    payload: Callable[[Served], bytes]
    devices: list[Served]
    state_of: Callable[[str], str]
    deadline: float
    keep: bool = False
    on_device: Callable[[str, int], None] = lambda _device, _change: None
    on_accepted: Callable[[str], None] = lambda _device: None

    async def replies(self) -> AsyncGenerator[DeviceReply | None, None]:
        """Yield what the device sends, the final last; None when nothing came for a while.

        Raises:
            HttpError: no device takes it, it ended in an error, or its time is over.
        """
        refused: list[HttpError] = []
        for number, device in enumerate(self.devices):
            is_last = number == len(self.devices) - 1
            self.on_device(device.name, 1)
            try:
                async with aclosing(self._with(device, is_last=is_last)) as replies:
                    async for reply in replies:
                        if reply is not None:
                            self.on_accepted(device.name)
                        yield reply
                return
            except _Elsewhere as elsewhere:
                refused.append(elsewhere.why)
            finally:
                self.on_device(device.name, -1)
        raise _soonest(refused)

    async def _with(
        self, device: Served, *, is_last: bool
    ) -> AsyncGenerator[DeviceReply | None, None]:
        box = Mailbox(self.prompt_id)
        asking = Asking(self.deadline, device.name)
        sent, cancel = False, not self.keep
        try:
            do, until = asking.next(time.monotonic(), random.random())  # noqa: S311  no secret
            began = time.monotonic()
            while True:
                if do is Do.GIVE_UP and box.replies.empty():
                    raise self._given_up(device.name, asking)
                if do is Do.SEND:
                    sent = True
                    await self._send(device, box)
                elif do is Do.QUERY:
                    self.line.query(device.name, box)
                message = await _next(box, until, heard=asking.heard)
                now = time.monotonic()
                if message is None:
                    if not asking.heard:
                        self._leave(device.name, now - began, is_last=is_last)
                    yield None
                elif message.property("ek-kind") == "state":
                    if read_state(message) == "unknown":
                        do, until = asking.unknown(now, random.random())  # noqa: S311  no secret
                        continue
                    asking.reply(device.name, now)
                else:
                    reply = self._read(message, device.name, accepted=asking.heard)
                    asking.reply(device.name, now, delta=reply.kind == "delta")
                    if reply.kind == "final":
                        cancel = False
                        yield reply
                        return
                    yield reply
                do, until = asking.next(now, random.random())  # noqa: S311  no secret
        except _UnansweredError as error:
            cancel = error.cancel
            raise error.refused from None
        except _Elsewhere as elsewhere:
            cancel = not elsewhere.ended
            raise
        finally:
            self.line.forget(box)
            if sent and cancel:
                self.line.cancel(device.name, box)

    async def _send(self, device: Served, box: Mailbox) -> None:
        payload, left = self.payload(device), self.deadline - time.monotonic()
        code = await self.line.prompt(device.name, payload, box, left)
        if code is None or (code < FAILURE and code != NO_MATCHING_SUBSCRIBERS):
            return
        if code == NO_MATCHING_SUBSCRIBERS:
            raise _Elsewhere(unreachable(f"{device.name} does not listen"))
        if code == PACKET_TOO_LARGE:
            text = f"the prompt has {len(payload)} bytes, more than the broker takes"
            raise _UnansweredError(of_code("payload_too_large", text))
        if code == QUOTA_EXCEEDED:
            raise _UnansweredError(unreachable("the connection to the broker has too much to send"))
        raise _UnansweredError(
            HttpError(
                403,
                "permission_denied",
                f"the broker refused the prompt of {self.line.requester} with reason code "
                f"0x{code:02x}: check the account that the gateway has there",
            )
        )

    def _leave(self, device: str, waited: float, *, is_last: bool) -> None:
        """Give up a device that has not answered; raises _Elsewhere."""
        if not self.line.connected:
            return  # nobody could have answered
        state = self.state_of(device)
        if state in ("lost", "offline"):
            raise _Elsewhere(unreachable(f"{device} does not answer: its status is `{state}`"))
        if waited >= ELSEWHERE_SECONDS and not is_last:
            raise _Elsewhere(unreachable(f"{device} does not answer"))

    def _given_up(self, device: str, asking: Asking) -> Exception:
        if time.monotonic() >= self.deadline:
            text = f"{device} did not answer before the deadline: {asking.why}"
            return _UnansweredError(HttpError(408, "deadline_exceeded", text), cancel=True)
        return _UnansweredError(unreachable(f"{device} does not answer: {asking.why}"), cancel=True)

    def _read(self, message: wire.Inbound, device: str, *, accepted: bool) -> DeviceReply:
        kind = message.property("ek-kind")
        if kind == "error":
            error = wire.ProtocolError.decode(message.payload)
            refused = of_device(error)
            if not accepted and error.retryable and error.code != "deadline_exceeded":
                raise _Elsewhere(refused, ended=True)
            raise _UnansweredError(refused)
        try:
            msgspec.json.decode(message.payload, type=_SHAPES[kind])
            body = msgspec.json.decode(message.payload, type=dict[str, Any])
        except (*UNREADABLE, KeyError) as error:
            text = f"a reply of {device} cannot be read: {error}"
            raise _UnansweredError(HttpError(502, "internal", text), cancel=True) from error
        if kind == "final" and body["choices"][0]["finish_reason"] == "cancelled":
            raise _UnansweredError(of_code("cancelled", f"the prompt was cancelled at {device}"))
        return DeviceReply(device, kind, body)


class _Elsewhere(Exception):  # noqa: N818  a step, and no error
    """Another device may have the prompt; `ended` says that this one does not work on it."""

    def __init__(self, why: HttpError, *, ended: bool = False) -> None:
        super().__init__(why.message)
        self.why, self.ended = why, ended


class _UnansweredError(Exception):
    """The prompt has no answer; `cancel` says that the device may still work on it."""

    def __init__(self, refused: HttpError, *, cancel: bool = False) -> None:
        super().__init__(refused.message)
        self.refused, self.cancel = refused, cancel


def _soonest(refused: list[HttpError]) -> HttpError:
    """Of several devices' refusals the one that asks for the shortest wait."""
    return min(refused, key=lambda each: (each.retry_after_ms is None, each.retry_after_ms or 0))


async def _next(box: Mailbox, until: float, *, heard: bool) -> wire.Inbound | None:
    most = TICK_SECONDS if heard else LOOKS_SECONDS
    seconds = min(max(until - time.monotonic(), 0.0), most)
    if not box.replies.empty():
        return box.replies.get_nowait()
    try:
        async with asyncio.timeout(seconds):  # wait_for of Python 3.11 can lose a cancellation
            return await box.replies.get()
    except TimeoutError:
        return None

"""One prompt under way: a thread asks, and whoever waits hears replies and signals in one queue.

No signal interrupts the requester. So a cancel always goes out whole, and the answer's end comes
back with what was computed until then.
"""

from __future__ import annotations

import queue
import threading
import uuid
from contextlib import closing
from enum import Enum
from typing import Any

from edgekit.client import Reply, Requester
from edgekit.errors import EdgekitError


class Order(Enum):
    """What a signal wants of an answer that is under way."""

    CANCEL = "end the answer"
    END = "end the answer and the program"


class RunningPrompt:
    """A prompt that a thread asks once it has begun; orders may come before.

    Args:
        requester: the connection.
        to: a device, or `pool:NAME`.
        body: of the chat completion.
        expiry_seconds: as `Requester.ask` takes it.
    """

    def __init__(
        self, requester: Requester, to: str, body: dict[str, Any], expiry_seconds: int
    ) -> None:
        self.to = to
        self._requester = requester
        self._id = str(uuid.uuid4())
        self._queue: queue.SimpleQueue[Reply | EdgekitError | Order] = queue.SimpleQueue()
        self._abandoned = False
        self._thread = threading.Thread(target=self._ask, args=[body, expiry_seconds], daemon=True)

    def begin(self) -> None:
        """Ask. Whoever gives orders on a signal hears signals by then."""
        self._thread.start()

    def next(self, timeout_seconds: float | None) -> Reply | EdgekitError | Order | None:
        """The next reply, an order, the error that ended the prompt, or None after the timeout."""
        try:
            return self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def order(self, order: Order) -> None:
        """Give an order; a signal handler may call it, as `SimpleQueue.put` is reentrant."""
        self._queue.put(order)

    def cancel(self) -> None:
        """Tell the device to stop."""
        self._requester.cancel(self.to, self._id)

    def abandon(self) -> None:
        """Wait for it no longer: cancel it now, and once more if the device begins it later."""
        self._abandoned = True
        self.cancel()

    def _ask(self, body: dict[str, Any], expiry_seconds: int) -> None:
        try:
            replies = self._requester.ask(
                self.to, body, prompt_id=self._id, expiry_seconds=expiry_seconds
            )
            with closing(replies):
                for reply in replies:
                    self._queue.put(reply)
                    if self._abandoned:
                        return
        except EdgekitError as error:
            self._queue.put(error)
        except Exception as error:  # the one that waits must hear of it
            self._queue.put(EdgekitError("the prompt failed", repr(error)))

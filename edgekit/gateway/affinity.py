"""Which device keeps a prefix of a conversation: it need not compute it again. Pure.

A device keeps prefixes for one requester apart from all others, and so does this memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import msgspec

MOST = 20_000  # prefixes; about 200 bytes each
DIGEST_BYTES = 16


class Affinity:
    """A bounded memory of prefixes and their devices; the oldest goes first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._devices: OrderedDict[bytes, str] = OrderedDict()

    def device(self, requester: str, messages: list[Any]) -> str:
        """The device that keeps the longest known prefix of these messages; empty: none does."""
        for digest in reversed(prefixes(requester, messages)):
            if found := self._devices.get(digest, ""):
                return found
        return ""

    def note(self, requester: str, messages: list[Any], answer: Any, device: str) -> None:
        """A device has answered these messages with that one."""
        for digest in prefixes(requester, [*messages, answer])[-2:]:
            self._devices[digest] = device
            self._devices.move_to_end(digest)
        while len(self._devices) > self._most:
            self._devices.popitem(last=False)


def prefixes(requester: str, messages: list[Any]) -> list[bytes]:
    """A digest of each prefix of a conversation, the shortest first.

    What clients send back of an answer differs: a field that is null or empty counts as absent.
    """
    found = []
    digest = requester.encode()
    for message in messages:
        told = message
        if isinstance(message, dict):
            told = {key: value for key, value in message.items() if value not in (None, [], "")}
        text = msgspec.json.encode(told, order="sorted")
        digest = hashlib.blake2b(digest + text, digest_size=DIGEST_BYTES).digest()
        found.append(digest)
    return found

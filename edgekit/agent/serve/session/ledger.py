"""Every prompt the session knows, what the journal is to be told of them, and how far the delivery
of their outcomes is (`states.DELIVERIES`), which nothing else changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from edgekit.agent.serve.session.events import Effect, Forget, Record
from edgekit.agent.serve.session.prompt import Prompt
from edgekit.agent.serve.session.states import Delivery, DeliveryStep, deliver
from edgekit.core import wire

MAX_ROWS = 1000
MAX_BYTES = 8 << 20  # of bodies and outcomes; they are in memory too
REFUSED_RETRY_SECONDS = 5.0  # until an outcome that the broker refused is published again
REQUESTER_SHARE = 4  # one requester holds at most this part of both: others have room as well


class Ledger:
    """Prompts by key, `requester/ek-id`."""

    def __init__(self) -> None:
        self._prompts: dict[str, Prompt] = {}
        self._dirty: dict[str, bool] = {}  # key: whether it can wait for the next commit
        self._forgotten: set[str] = set()
        self._bytes = 0
        self._sizes: dict[str, int] = {}
        self._held: dict[str, tuple[int, int]] = {}  # requester: rows, bytes

    def __iter__(self) -> Iterator[Prompt]:
        return iter(tuple(self._prompts.values()))

    def requesters_since(self, since: float) -> set[str]:
        """Whose prompts have come since that time; they are the last of all."""
        latest = reversed(self._prompts.values())
        recent = takewhile(lambda prompt: prompt.queued_at >= since, latest)
        return {prompt.requester for prompt in recent}

    def get(self, key: str) -> Prompt | None:
        """The prompt of that key."""
        return self._prompts.get(key)

    def add(self, prompt: Prompt) -> None:
        """Know a prompt; its row will replace one that was to be forgotten."""
        self._prompts[prompt.key] = prompt
        self._forgotten.discard(prompt.key)
        self._measure(prompt)

    def touch(self, prompt: Prompt, *, can_wait: bool = False) -> None:
        """The journal is to be told."""
        self._dirty[prompt.key] = can_wait and self._dirty.get(prompt.key, True)
        self._measure(prompt)

    def drop(self, prompt: Prompt) -> None:
        """Know it no more, nor shall the journal."""
        del self._prompts[prompt.key]
        self._count(prompt.requester, -1, -self._sizes.pop(prompt.key))
        self._dirty.pop(prompt.key, None)
        if prompt.stored:
            self._forgotten.add(prompt.key)

    def make_room(self, needed_bytes: int) -> bool:
        """Whether one more prompt fits, once the oldest outcomes that were delivered are gone."""
        for prompt in tuple(self._prompts.values()):
            if self._fits(needed_bytes):
                break
            if prompt.outcome is not None and prompt.sent:
                self.drop(prompt)
        return self._fits(needed_bytes)

    def make_room_of(self, requester: str, needed_bytes: int) -> bool:
        """Whether one more fits into a requester's share, once its own oldest delivered outcomes
        are gone."""
        if self._fits_share(requester, needed_bytes):
            return True
        for prompt in tuple(self._prompts.values()):
            if prompt.requester == requester and prompt.outcome is not None and prompt.sent:
                self.drop(prompt)
                if self._fits_share(requester, needed_bytes):
                    return True
        return False

    def forget_old(self, now: float) -> None:
        """Drop outcomes whose time is over."""
        for prompt in tuple(self._prompts.values()):
            if prompt.outcome is not None and now >= prompt.forget_at:
                self.drop(prompt)

    def effects(self, *, everything: bool) -> list[Effect]:
        """What the journal is to be told now, in one commit.

        Args:
            everything: also what could wait for another commit.
        """
        if not everything and all(self._dirty.values()):
            return []
        told: list[Effect] = []
        for key in self._dirty:
            prompt = self._prompts[key]
            prompt.new_to_journal, prompt.stored = not prompt.stored, True
            told.append(Record(prompt.row()))
        told += map(Forget, sorted(self._forgotten))
        self._dirty.clear()
        self._forgotten.clear()
        return told

    def failed(self, recorded: Iterable[str], forgotten: Iterable[str]) -> list[Prompt]:
        """A commit failed: it is to be done again.

        Returns:
            The prompts that the journal has never had. The caller drops them, which asks for
            their rows to be forgotten: whether a failed commit is on the disk cannot be known.
        """
        self._forgotten.update(forgotten)
        prompts = [prompt for key in recorded if (prompt := self._prompts.get(key)) is not None]
        for prompt in prompts:
            self._move(prompt, DeliveryStep.LOST)
            self._dirty[prompt.key] = False
        return [prompt for prompt in prompts if prompt.new_to_journal]

    # --- delivery of outcomes -----------------------------------------------------------------
    def due(self, now: float) -> list[Prompt]:
        """Whose outcomes are to be published now, the oldest first."""
        unsent = (Delivery.UNSENT, Delivery.REFUSED)
        return [
            prompt
            for prompt in self._prompts.values()
            if prompt.delivery in unsent and prompt.outcome is not None and now >= prompt.retry_at
        ]

    def published(self, prompt: Prompt) -> None:
        """Its outcome is on its way to the broker."""
        self._move(prompt, DeliveryStep.PUBLISHED)

    def acknowledged(self, prompt: Prompt) -> None:
        """The broker has its outcome; the journal is told, but that can wait."""
        if not prompt.sent:
            self._move(prompt, DeliveryStep.ACKNOWLEDGED)
            self.touch(prompt, can_wait=True)

    def refused(self, prompt: Prompt, now: float) -> None:
        """The broker did not take its outcome: it is due again after REFUSED_RETRY_SECONDS."""
        self._move(prompt, DeliveryStep.REFUSED)
        prompt.retry_at = now + REFUSED_RETRY_SECONDS

    def lost(self, prompt: Prompt) -> None:
        """The connection ended before the broker answered: its outcome is due again."""
        self._move(prompt, DeliveryStep.LOST)

    def reconnected(self) -> None:
        """What an earlier connection has not answered is never answered."""
        for prompt in self._prompts.values():
            self._move(prompt, DeliveryStep.LOST)

    def readdress(self, prompt: Prompt, reply: wire.ReplyTo) -> None:
        """From now on its replies go to another address, its outcome once more."""
        prompt.reply, prompt.retry_at = reply, 0.0
        self._move(prompt, DeliveryStep.READDRESSED)
        self.touch(prompt, can_wait=prompt.outcome is not None)

    def withhold(self, prompt: Prompt) -> None:
        """Nobody is to hear of its outcome, unless asked by `query`."""
        self._move(prompt, DeliveryStep.WITHHELD)
        self.touch(prompt)

    def _move(self, prompt: Prompt, step: DeliveryStep) -> None:
        prompt.delivery = deliver(prompt.delivery, step)

    # --- bounds -------------------------------------------------------------------------------
    def _fits(self, needed_bytes: int) -> bool:
        return len(self._prompts) < MAX_ROWS and self._bytes + needed_bytes <= MAX_BYTES

    def _fits_share(self, requester: str, needed_bytes: int) -> bool:
        rows, held_bytes = self._held.get(requester, (0, 0))
        return (
            rows < MAX_ROWS // REQUESTER_SHARE
            and held_bytes + needed_bytes <= MAX_BYTES // REQUESTER_SHARE
        )

    def _measure(self, prompt: Prompt) -> None:
        before = self._sizes.get(prompt.key)
        self._count(prompt.requester, int(before is None), prompt.size_bytes - (before or 0))
        self._sizes[prompt.key] = prompt.size_bytes

    def _count(self, requester: str, more_rows: int, more_bytes: int) -> None:
        self._bytes += more_bytes
        rows, held_bytes = self._held.pop(requester, (0, 0))
        if rows + more_rows:
            self._held[requester] = (rows + more_rows, held_bytes + more_bytes)

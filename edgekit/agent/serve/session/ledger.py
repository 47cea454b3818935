"""Every prompt that the session knows, by key.

The ledger collects what the journal must record, and it alone changes the delivery of an outcome
(`states.DELIVERIES`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from edgekit.agent.serve.session.events import Effect, Forget, Record
from edgekit.agent.serve.session.prompt import Prompt
from edgekit.agent.serve.session.states import Delivery, DeliveryStep, deliver
from edgekit.core.protocol import wire

MAX_ROWS = 1000
MAX_BYTES = 8 << 20  # of bodies and outcomes, which the agent holds in memory too
REFUSED_RETRY_SECONDS = 5.0  # until the agent publishes a refused outcome again
REQUESTER_SHARE = 4  # one requester holds at most a quarter of both: others need room too


class Ledger:
    """Prompts by key, `requester/ek-id`."""

    def __init__(self) -> None:
        self._prompts: dict[str, Prompt] = {}
        self._dirty: dict[str, bool] = {}  # key: whether the record can wait for the next commit
        self._forgotten: set[str] = set()
        self._bytes = 0
        self._sizes: dict[str, int] = {}
        self._held: dict[str, tuple[int, int]] = {}  # requester: rows, bytes

    def __iter__(self) -> Iterator[Prompt]:
        return iter(tuple(self._prompts.values()))

    def requesters_since(self, since: float) -> set[str]:
        """Return the requesters whose prompts came at or after `since` (monotonic seconds)."""
        latest = reversed(self._prompts.values())  # the dictionary has them by arrival
        recent = takewhile(lambda prompt: prompt.queued_at >= since, latest)
        return {prompt.requester for prompt in recent}

    def get(self, key: str) -> Prompt | None:
        """Return the prompt of a key, or None."""
        return self._prompts.get(key)

    def add(self, prompt: Prompt) -> None:
        """Add a prompt. Its row replaces a row of the same key that waited for its removal."""
        self._prompts[prompt.key] = prompt
        self._forgotten.discard(prompt.key)
        self._measure(prompt)

    def touch(self, prompt: Prompt, *, can_wait: bool = False) -> None:
        """Have the journal record a prompt."""
        self._dirty[prompt.key] = can_wait and self._dirty.get(prompt.key, True)
        self._measure(prompt)

    def drop(self, prompt: Prompt) -> None:
        """Remove a prompt, from the journal too."""
        del self._prompts[prompt.key]
        self._count(prompt.requester, -1, -self._sizes.pop(prompt.key))
        self._dirty.pop(prompt.key, None)
        if prompt.stored:
            self._forgotten.add(prompt.key)

    def make_room(self, needed_bytes: int) -> bool:
        """Drop the oldest delivered outcomes until one more prompt fits; return whether it does."""
        for prompt in tuple(self._prompts.values()):
            if self._fits(needed_bytes):
                break
            if prompt.outcome is not None and prompt.sent:
                self.drop(prompt)
        return self._fits(needed_bytes)

    def make_room_of(self, requester: str, needed_bytes: int) -> bool:
        """Drop a requester's oldest delivered outcomes until one more prompt fits into its share.

        Returns:
            Whether it fits.
        """
        if self._fits_share(requester, needed_bytes):
            return True
        for prompt in tuple(self._prompts.values()):
            if prompt.requester == requester and prompt.outcome is not None and prompt.sent:
                self.drop(prompt)
                if self._fits_share(requester, needed_bytes):
                    return True
        return False

    def forget_old(self, now: float) -> None:
        """Drop outcomes that have been kept long enough."""
        for prompt in tuple(self._prompts.values()):
            if prompt.outcome is not None and now >= prompt.forget_at:
                self.drop(prompt)

    def effects(self, *, everything: bool) -> list[Effect]:
        """Return what the journal must record and forget now, in one commit.

        Args:
            everything: include records that could wait for another commit.
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
        """Handle a failed commit: the next one repeats it.

        Returns:
            The prompts that the journal has never had. The caller drops them, and the journal
            then removes their rows: a failed commit may have reached the disk all the same.
        """
        self._forgotten.update(forgotten)
        prompts = [prompt for key in recorded if (prompt := self._prompts.get(key)) is not None]
        for prompt in prompts:
            self._move(prompt, DeliveryStep.LOST)
            self._dirty[prompt.key] = False
        return [prompt for prompt in prompts if prompt.new_to_journal]

    # --- delivery of outcomes -----------------------------------------------------------------
    def due(self, now: float) -> list[Prompt]:
        """Return the prompts whose outcomes must be published now, the oldest first."""
        unsent = (Delivery.UNSENT, Delivery.REFUSED)
        return [
            prompt
            for prompt in self._prompts.values()
            if prompt.delivery in unsent and prompt.outcome is not None and now >= prompt.retry_at
        ]

    def published(self, prompt: Prompt) -> None:
        """Note that the outcome is on its way to the broker."""
        self._move(prompt, DeliveryStep.PUBLISHED)

    def acknowledged(self, prompt: Prompt) -> None:
        """Note that the broker has the outcome. The journal records it with a later commit."""
        if not prompt.sent:
            self._move(prompt, DeliveryStep.ACKNOWLEDGED)
            self.touch(prompt, can_wait=True)

    def refused(self, prompt: Prompt, now: float) -> None:
        """Note that the broker refused the outcome: it is due again after REFUSED_RETRY_SECONDS."""
        self._move(prompt, DeliveryStep.REFUSED)
        prompt.retry_at = now + REFUSED_RETRY_SECONDS

    def lost(self, prompt: Prompt) -> None:
        """Note that the connection ended before the PUBACK: the outcome is due again."""
        self._move(prompt, DeliveryStep.LOST)

    def reconnected(self) -> None:
        """Make every outcome in flight due again: a new connection brings no old PUBACK."""
        for prompt in self._prompts.values():
            self._move(prompt, DeliveryStep.LOST)

    def readdress(self, prompt: Prompt, reply: wire.ReplyTo) -> None:
        """Send the replies to another address from now on, the outcome once more."""
        prompt.reply, prompt.retry_at = reply, 0.0
        self._move(prompt, DeliveryStep.READDRESSED)
        self.touch(prompt, can_wait=prompt.outcome is not None)

    def withhold(self, prompt: Prompt) -> None:
        """Do not send the outcome; only a `query` gets it."""
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

"""Every prompt the session knows, what the journal is to be told of them, and how far the delivery
of their outcomes is (`states.DELIVERIES`), which nothing else changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from edgekit.agent.serve.session.events import Effect, Forget, Record
from edgekit.agent.serve.session.prompt import Job
from edgekit.agent.serve.session.states import Delivery, DeliveryStep, deliver
from edgekit.core import wire

MAX_ROWS = 1000
MAX_BYTES = 8 << 20  # of bodies and outcomes; they are in memory too
REFUSED_RETRY_SECONDS = 5.0  # until an outcome that the broker refused is published again
REQUESTER_SHARE = 4  # one requester holds at most this part of both: others have room as well


class Ledger:
    """Prompts by key, `requester/ek-id`."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._dirty: dict[str, bool] = {}  # key: whether it can wait for the next commit
        self._forgotten: set[str] = set()
        self._bytes = 0
        self._sizes: dict[str, int] = {}
        self._held: dict[str, tuple[int, int]] = {}  # requester: rows, bytes

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def requesters_since(self, since: float) -> set[str]:
        """Whose prompts have come since that time; they are the last of all."""
        recent = takewhile(lambda job: job.queued_at >= since, reversed(self._jobs.values()))
        return {job.requester for job in recent}

    def get(self, key: str) -> Job | None:
        """The prompt of that key."""
        return self._jobs.get(key)

    def add(self, job: Job) -> None:
        """Know a prompt; its row will replace one that was to be forgotten."""
        self._jobs[job.key] = job
        self._forgotten.discard(job.key)
        self._measure(job)

    def touch(self, job: Job, *, can_wait: bool = False) -> None:
        """The journal is to be told."""
        self._dirty[job.key] = can_wait and self._dirty.get(job.key, True)
        self._measure(job)

    def drop(self, job: Job) -> None:
        """Know it no more, nor shall the journal."""
        del self._jobs[job.key]
        self._count(job.requester, -1, -self._sizes.pop(job.key))
        self._dirty.pop(job.key, None)
        if job.stored:
            self._forgotten.add(job.key)

    def make_room(self, needed_bytes: int) -> bool:
        """Whether one more prompt fits, once the oldest outcomes that were delivered are gone."""
        for job in tuple(self._jobs.values()):
            if self._fits(needed_bytes):
                break
            if job.outcome is not None and job.sent:
                self.drop(job)
        return self._fits(needed_bytes)

    def make_room_of(self, requester: str, needed_bytes: int) -> bool:
        """Whether one more fits into a requester's share, once its own oldest delivered outcomes
        are gone."""
        if self._fits_share(requester, needed_bytes):
            return True
        for job in [job for job in self._jobs.values() if job.requester == requester]:
            if job.outcome is not None and job.sent:
                self.drop(job)
                if self._fits_share(requester, needed_bytes):
                    return True
        return False

    def forget_old(self, now: float) -> None:
        """Drop outcomes whose time is over."""
        for job in tuple(self._jobs.values()):
            if job.outcome is not None and now >= job.forget_at:
                self.drop(job)

    def effects(self, *, everything: bool) -> list[Effect]:
        """What the journal is to be told now, in one commit.

        Args:
            everything: also what could wait for another commit.
        """
        if not everything and all(self._dirty.values()):
            return []
        told: list[Effect] = []
        for key in self._dirty:
            job = self._jobs[key]
            job.new_to_journal, job.stored = not job.stored, True
            told.append(Record(job.row()))
        told += map(Forget, sorted(self._forgotten))
        self._dirty.clear()
        self._forgotten.clear()
        return told

    def failed(self, recorded: Iterable[str], forgotten: Iterable[str]) -> list[Job]:
        """A commit failed: it is to be done again.

        Returns:
            The prompts that the journal has never had. The caller drops them, which asks for
            their rows to be forgotten: whether a failed commit is on the disk cannot be known.
        """
        self._forgotten.update(forgotten)
        jobs = [job for key in recorded if (job := self._jobs.get(key)) is not None]
        for job in jobs:
            self._move(job, DeliveryStep.LOST)
            self._dirty[job.key] = False
        return [job for job in jobs if job.new_to_journal]

    # --- delivery of outcomes -----------------------------------------------------------------
    def due(self, now: float) -> list[Job]:
        """Whose outcomes are to be published now, the oldest first."""
        unsent = (Delivery.UNSENT, Delivery.REFUSED)
        return [
            job
            for job in self._jobs.values()
            if job.delivery in unsent and job.outcome is not None and now >= job.retry_at
        ]

    def published(self, job: Job) -> None:
        """Its outcome is on its way to the broker."""
        self._move(job, DeliveryStep.PUBLISHED)

    def acknowledged(self, job: Job) -> None:
        """The broker has its outcome; the journal is told, but that can wait."""
        if not job.sent:
            self._move(job, DeliveryStep.ACKNOWLEDGED)
            self.touch(job, can_wait=True)

    def refused(self, job: Job, now: float) -> None:
        """The broker did not take its outcome: it is due again after REFUSED_RETRY_SECONDS."""
        self._move(job, DeliveryStep.REFUSED)
        job.retry_at = now + REFUSED_RETRY_SECONDS

    def lost(self, job: Job) -> None:
        """The connection ended before the broker answered: its outcome is due again."""
        self._move(job, DeliveryStep.LOST)

    def reconnected(self) -> None:
        """What an earlier connection has not answered is never answered."""
        for job in self._jobs.values():
            self._move(job, DeliveryStep.LOST)

    def readdress(self, job: Job, reply: wire.Reply) -> None:
        """From now on its replies go to another address, its outcome once more."""
        job.reply, job.retry_at = reply, 0.0
        self._move(job, DeliveryStep.READDRESSED)
        self.touch(job, can_wait=job.outcome is not None)

    def withhold(self, job: Job) -> None:
        """Nobody is to hear of its outcome, unless asked by `query`."""
        self._move(job, DeliveryStep.WITHHELD)
        self.touch(job)

    def _move(self, job: Job, step: DeliveryStep) -> None:
        job.delivery = deliver(job.delivery, step)

    # --- bounds -------------------------------------------------------------------------------
    def _fits(self, needed_bytes: int) -> bool:
        return len(self._jobs) < MAX_ROWS and self._bytes + needed_bytes <= MAX_BYTES

    def _fits_share(self, requester: str, needed_bytes: int) -> bool:
        rows, held_bytes = self._held.get(requester, (0, 0))
        return (
            rows < MAX_ROWS // REQUESTER_SHARE
            and held_bytes + needed_bytes <= MAX_BYTES // REQUESTER_SHARE
        )

    def _measure(self, job: Job) -> None:
        before = self._sizes.get(job.key)
        self._count(job.requester, int(before is None), job.size_bytes - (before or 0))
        self._sizes[job.key] = job.size_bytes

    def _count(self, requester: str, more_rows: int, more_bytes: int) -> None:
        self._bytes += more_bytes
        rows, held_bytes = self._held.pop(requester, (0, 0))
        if rows + more_rows:
            self._held[requester] = (rows + more_rows, held_bytes + more_bytes)

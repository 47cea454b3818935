"""The prompts that wait: in turn over requesters, in the order they came within one.

Whose last turn is longest ago is next, so that who asks rarely does not stand behind who floods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from copy import copy

from edgekit.agent.serve.session.prompt import Job

MAX_TURNS = 100  # requesters whose last turn is known


class FairQueue:
    """Between two prompts of one requester every other one that waits has had its turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()  # requesters with a prompt that waits
        self._served: dict[str, int] = {}  # requester: the number of its last turn
        self._count = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[Job]:
        """In the order in which they will be taken."""
        lanes = {name: deque(lane) for name, lane in self._lanes.items()}
        turns = deque(self._turns)
        while turns:
            name = turns.popleft()
            yield lanes[name].popleft()
            if lanes[name]:
                turns.append(name)

    @property
    def requesters(self) -> set[str]:
        """Who has a prompt that waits."""
        return set(self._lanes)

    def with_another(self, job: Job) -> FairQueue:
        """What it would be with one more prompt; it stays as it is."""
        other = copy(self)
        other._lanes = {name: deque(lane) for name, lane in self._lanes.items()}
        other._turns = deque(self._turns)
        other.add(job)
        return other

    def count(self, requester: str) -> int:
        """Prompts of one requester that wait."""
        return len(self._lanes.get(requester, ()))

    def add(self, job: Job) -> None:
        """Wait behind the requester's others; its first one before all who had a turn since."""
        name = job.requester
        lane = self._lanes.setdefault(name, deque())
        if not lane:
            last, at = self._served.get(name, 0), len(self._turns)
            while at and self._served.get(self._turns[at - 1], 0) > last:
                at -= 1
            self._turns.insert(at, name)
        lane.append(job)

    def put_back(self, job: Job) -> None:
        """Be the next one: it had its turn already."""
        self._lanes.setdefault(job.requester, deque()).appendleft(job)
        if job.requester in self._turns:
            self._turns.remove(job.requester)
        self._turns.appendleft(job.requester)
        self._served.pop(job.requester, None)

    def first(self, but: Container[str] = ()) -> Job | None:
        """The next one, but not of these requesters; it stays."""
        return next((self._lanes[name][0] for name in self._turns if name not in but), None)

    def take(self, job: Job) -> None:
        """Its requester has its turn.

        Raises:
            ValueError: it does not wait.
        """
        name = job.requester
        self.remove(job)
        if name in self._lanes:
            self._turns.remove(name)
            self._turns.append(name)
        self._served.pop(name, None)  # those who had a turn stay in this order
        self._count += 1
        self._served[name] = self._count
        if len(self._served) > MAX_TURNS:
            del self._served[next(iter(self._served))]

    def remove(self, job: Job) -> None:
        """Wait no longer.

        Raises:
            ValueError: it does not wait.
        """
        lane = self._lanes.get(job.requester, deque())
        lane.remove(job)
        if not lane:
            del self._lanes[job.requester]
            self._turns.remove(job.requester)

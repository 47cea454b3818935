"""The prompts that wait: in turn over requesters, in the order they came within one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from edgekit.agent.serve.job import Job


class FairQueue:
    """Between two prompts of one requester every other one that waits has had its turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()  # requesters with a prompt that waits

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

    def count(self, requester: str) -> int:
        """Prompts of one requester that wait."""
        return len(self._lanes.get(requester, ()))

    def add(self, job: Job) -> None:
        """Wait behind the requester's others."""
        lane = self._lanes.setdefault(job.requester, deque())
        if not lane:
            self._turns.append(job.requester)
        lane.append(job)

    def put_back(self, job: Job) -> None:
        """Be the next one: it had its turn already."""
        self._lanes.setdefault(job.requester, deque()).appendleft(job)
        if job.requester in self._turns:
            self._turns.remove(job.requester)
        self._turns.appendleft(job.requester)

    def first(self) -> Job | None:
        """The next one, which stays."""
        return self._lanes[self._turns[0]][0] if self._turns else None

    def take(self) -> Job:
        """The next one.

        Raises:
            IndexError: nobody waits.
        """
        name = self._turns.popleft()
        lane = self._lanes[name]
        job = lane.popleft()
        if lane:
            self._turns.append(name)
        else:
            del self._lanes[name]
        return job

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

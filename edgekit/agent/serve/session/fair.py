"""The prompts that wait: in turn over requesters, in the order they came within one.

Whose last turn is longest ago is next, so that who asks rarely does not stand behind who floods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from copy import copy

from edgekit.agent.serve.session.prompt import Prompt

MAX_SERVED = 100  # requesters whose last turn is known


class FairQueue:
    """Between two prompts of one requester every other one that waits has had its turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Prompt]] = {}
        self._order: deque[str] = deque()  # requesters with a prompt that waits
        self._served: dict[str, int] = {}  # requester: the number of its last turn
        self._count = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[Prompt]:
        """In the order in which they will be taken."""
        lanes = {name: deque(lane) for name, lane in self._lanes.items()}
        order = deque(self._order)
        while order:
            name = order.popleft()
            yield lanes[name].popleft()
            if lanes[name]:
                order.append(name)

    @property
    def requesters(self) -> set[str]:
        """Who has a prompt that waits."""
        return set(self._lanes)

    def with_another(self, prompt: Prompt) -> FairQueue:
        """What it would be with one more prompt; it stays as it is."""
        other = copy(self)
        other._lanes = {name: deque(lane) for name, lane in self._lanes.items()}
        other._order = deque(self._order)
        other.add(prompt)
        return other

    def count(self, requester: str) -> int:
        """Prompts of one requester that wait."""
        return len(self._lanes.get(requester, ()))

    def add(self, prompt: Prompt) -> None:
        """Wait behind the requester's others; its first one before all who had a turn since."""
        name = prompt.requester
        lane = self._lanes.setdefault(name, deque())
        if not lane:
            last, at = self._served.get(name, 0), len(self._order)
            while at and self._served.get(self._order[at - 1], 0) > last:
                at -= 1
            self._order.insert(at, name)
        lane.append(prompt)

    def put_back(self, prompt: Prompt) -> None:
        """Be the next one: it had its turn already."""
        self._lanes.setdefault(prompt.requester, deque()).appendleft(prompt)
        if prompt.requester in self._order:
            self._order.remove(prompt.requester)
        self._order.appendleft(prompt.requester)
        self._served.pop(prompt.requester, None)

    def first(self, but: Container[str] = ()) -> Prompt | None:
        """The next one, but not of these requesters; it stays."""
        return next((self._lanes[name][0] for name in self._order if name not in but), None)

    def take(self, prompt: Prompt) -> None:
        """Its requester has its turn.

        Raises:
            ValueError: it does not wait.
        """
        name = prompt.requester
        self.remove(prompt)
        if name in self._lanes:
            self._order.remove(name)
            self._order.append(name)
        self._served.pop(name, None)  # those who had a turn stay in this order
        self._count += 1
        self._served[name] = self._count
        if len(self._served) > MAX_SERVED:
            del self._served[next(iter(self._served))]

    def remove(self, prompt: Prompt) -> None:
        """Wait no longer.

        Raises:
            ValueError: it does not wait.
        """
        lane = self._lanes.get(prompt.requester, deque())
        lane.remove(prompt)
        if not lane:
            del self._lanes[prompt.requester]
            self._order.remove(prompt.requester)

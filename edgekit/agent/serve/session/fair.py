"""The queue of waiting prompts: round-robin over requesters, first come first served within one.

The requester that was served longest ago is next. A requester with few prompts therefore does not
wait behind one that floods the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from copy import copy

from edgekit.agent.serve.session.prompt import Prompt

MAX_SERVED = 100  # requesters whose last service is remembered


class FairQueue:
    """Takes a prompt of every other waiting requester between two prompts of one requester."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Prompt]] = {}
        self._order: deque[str] = deque()  # requesters with a waiting prompt, the next one first
        self._served: dict[str, int] = {}  # requester: the number of its last service
        self._count = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[Prompt]:
        """Iterate in the order in which the prompts will be taken."""
        lanes = {name: deque(lane) for name, lane in self._lanes.items()}
        order = deque(self._order)
        while order:
            name = order.popleft()
            yield lanes[name].popleft()
            if lanes[name]:
                order.append(name)

    @property
    def requesters(self) -> set[str]:
        """The requesters with a waiting prompt."""
        return set(self._lanes)

    def with_another(self, prompt: Prompt) -> FairQueue:
        """Return a copy of the queue with one more prompt."""
        other = copy(self)
        other._lanes = {name: deque(lane) for name, lane in self._lanes.items()}
        other._order = deque(self._order)
        other.add(prompt)
        return other

    def count(self, requester: str) -> int:
        """Return how many prompts of a requester wait."""
        return len(self._lanes.get(requester, ()))

    def add(self, prompt: Prompt) -> None:
        """Queue a prompt behind the others of its requester.

        A requester without a waiting prompt goes before all that were served after it.
        """
        name = prompt.requester
        lane = self._lanes.setdefault(name, deque())
        if not lane:
            last, at = self._served.get(name, 0), len(self._order)
            while at and self._served.get(self._order[at - 1], 0) > last:
                at -= 1
            self._order.insert(at, name)
        lane.append(prompt)

    def put_back(self, prompt: Prompt) -> None:
        """Put a prompt at the head of the queue: it was taken before."""
        self._lanes.setdefault(prompt.requester, deque()).appendleft(prompt)
        if prompt.requester in self._order:
            self._order.remove(prompt.requester)
        self._order.appendleft(prompt.requester)
        self._served.pop(prompt.requester, None)

    def first(self, but: Container[str] = ()) -> Prompt | None:
        """Return the next prompt, without taking it; `but` names requesters to pass over."""
        return next((self._lanes[name][0] for name in self._order if name not in but), None)

    def take(self, prompt: Prompt) -> None:
        """Remove a prompt that starts, and move its requester to the end.

        Raises:
            ValueError: the prompt does not wait.
        """
        name = prompt.requester
        self.remove(prompt)
        if name in self._lanes:
            self._order.remove(name)
            self._order.append(name)
        self._served.pop(name, None)  # the dictionary stays in the order of service
        self._count += 1
        self._served[name] = self._count
        if len(self._served) > MAX_SERVED:
            del self._served[next(iter(self._served))]

    def remove(self, prompt: Prompt) -> None:
        """Remove a prompt that will not start.

        Raises:
            ValueError: the prompt does not wait.
        """
        lane = self._lanes.get(prompt.requester, deque())
        lane.remove(prompt)
        if not lane:
            del self._lanes[prompt.requester]
            self._order.remove(prompt.requester)

"""Decides which requester gets the model's next quantum, where several share it. Pure.

The next quantum belongs to the requester that has used least of the model's time (start-time fair
queuing). So a requester gets no more of the model by sending many prompts, or long ones. One that
used little in the last minute or two, like the victim of a flood, gets more: its time counts a
third until it has caught up. Time is measured, because the cost of a token depends on the model,
on the device, and on how many tokens are computed at once.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

FAVOUR = 3.0  # a requester that used little gets this much time for one second of the others
CAUGHT_UP = 0.8  # of the time of the requester that used most
HALF_LIFE_SECONDS = 60.0  # in which used time loses half of its weight
MAX_WAIT_QUANTA = 32  # a requester never waits longer, whatever the others have used
MAX_REMEMBERED = 100  # requesters whose balance is kept
MAX_HALF_LIVES = 64.0  # then all balances are scaled down, before a float overflows


@dataclass(slots=True)
class Balance:
    """How much of the model a requester has used.

    Attributes:
        used: seconds of the model's time; later seconds count more, so earlier ones fade.
        virtual: seconds of virtual time; a favoured requester's second counts 1 / `FAVOUR`.
        quantum: the number of the requester's last quantum.
    """

    used: float = 0.0
    virtual: float = 0.0
    quantum: int = 0


class Shares:
    """The balances of all requesters."""

    def __init__(self) -> None:
        self._balances: dict[str, Balance] = {}
        self._here: Set[str] = frozenset()
        self._waiting: Set[str] = frozenset()
        self._quantum = 0
        self._virtual = 0.0  # the virtual time at which newcomers begin
        self._since = 0.0  # the time at which a used second has the weight 1

    def __len__(self) -> int:
        return len(self._balances)

    def next(self, here: Set[str], waiting: Set[str] = frozenset()) -> str:
        """Return the requester that gets the next quantum.

        Args:
            here: the requesters whose prompts run, at least one.
            waiting: the requesters whose prompts wait.
        """
        self._waiting = waiting
        if here != self._here:
            self._meet(here)
        self._quantum += 1
        balances = [(self._balances[name], name) for name in here]
        balance, name = min(balances, key=lambda pair: pair[0].quantum)
        if self._quantum - balance.quantum <= MAX_WAIT_QUANTA:
            balance, name = min(balances, key=lambda pair: (pair[0].virtual, pair[0].quantum))
            self._virtual = balance.virtual
        balance.quantum = self._quantum
        return name

    def rest(self) -> None:
        """Note that no prompt runs."""
        self._here = self._waiting = frozenset()

    def owes(self, name: str) -> bool:
        """Return whether this requester's new prompt has to wait for requesters that are here."""
        balance = self._balances.get(name)
        if balance is None or self._here <= {name}:
            return False
        waited = self._quantum - balance.quantum
        return balance.virtual > self._virtual and waited <= MAX_WAIT_QUANTA

    def used(self, name: str) -> float:
        """Return how much this requester used lately; compare it only with other requesters'."""
        balance = self._balances.get(name)
        return balance.used if balance else 0.0

    def charge(self, name: str, seconds: float, now: float, *, feeding: bool = False) -> None:
        """Add the time that a requester has used to its balance.

        Args:
            name: the requester.
            seconds: the model's time that it used.
            now: monotonic seconds.
            feeding: the time went into a prompt, not into an answer. Among equals it is favoured:
                the requester waits for a first token.
        """
        if now - self._since > MAX_HALF_LIVES * HALF_LIFE_SECONDS:
            self._renew(now)
        balance = self._balance(name)
        balance.quantum = self._quantum
        used = [balance.used, *map(self.used, self._here | self._waiting)]
        enough = CAUGHT_UP * max(used)
        favoured = balance.used < enough or (feeding and min(used) >= enough)
        balance.virtual += seconds / FAVOUR if favoured else seconds
        if self._here <= {name}:
            self._virtual = balance.virtual  # no other requester had to wait
        balance.used += seconds * 2.0 ** ((now - self._since) / HALF_LIFE_SECONDS)

    def _meet(self, here: Set[str]) -> None:
        newcomers, self._here = here - self._here, here
        for name in newcomers:
            balance = self._balance(name)
            balance.virtual = max(balance.virtual, self._virtual)  # no saved-up time
            balance.quantum = self._quantum

    def _balance(self, name: str) -> Balance:
        balance = self._balances.get(name)
        if balance is None:
            balance = self._balances[name] = Balance(virtual=self._virtual, quantum=self._quantum)
            others = self._balances.keys() - self._here - {name}
            if others and len(self._balances) > MAX_REMEMBERED:
                del self._balances[min(others, key=lambda name: self._balances[name].used)]
        return balance

    def _renew(self, now: float) -> None:
        scale = 0.5 ** ((now - self._since) / HALF_LIFE_SECONDS)
        for balance in self._balances.values():
            balance.used *= scale
        self._since = now

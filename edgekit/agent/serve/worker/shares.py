"""Whose turn with the model it is, where several requesters share it. Pure.

Next is who has had least of the model's time, so that many prompts or long ones get a requester no
more of it than another has (start-time fair queuing). Whoever has used little in the last minute or
two, like somebody who is met by a flood, gets more: its time counts a third, until it has caught
up. Time is measured, since what a token costs depends on the model, the device and on how many are
computed at once.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

FAVOUR = 3.0  # the time of who has used little, to one of who has used much
CAUGHT_UP = 0.8  # of what was used by the one that used most
HALF_LIFE_SECONDS = 60.0  # of what was used
MAX_WAIT_QUANTA = 32  # after which it is one's turn, whatever the others have used
MAX_REMEMBERED = 100  # requesters
MAX_HALF_LIVES = 64.0  # of the unit in which is written what was used


@dataclass(slots=True)
class Balance:
    """What is known of a requester.

    Attributes:
        used: seconds of the model; later ones count more, so that earlier ones fade.
        virtual: seconds, of which `FAVOUR` may count as one.
        quantum: the number of its last one.
    """

    used: float = 0.0
    virtual: float = 0.0
    quantum: int = 0


class Shares:
    """The requesters' accounts."""

    def __init__(self) -> None:
        self._balances: dict[str, Balance] = {}
        self._here: Set[str] = frozenset()
        self._waiting: Set[str] = frozenset()
        self._quantum = 0
        self._virtual = 0.0  # where newcomers begin
        self._since = 0.0  # when a second counts one

    def __len__(self) -> int:
        return len(self._balances)

    def next(self, here: Set[str], waiting: Set[str] = frozenset()) -> str:
        """Whose turn it is.

        Args:
            here: the requesters whose prompts run, at least one.
            waiting: those with prompts that wait.
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
        """No prompt runs."""
        self._here = self._waiting = frozenset()

    def owes(self, name: str) -> bool:
        """Whether a new prompt of this requester is to wait for others that are here."""
        balance = self._balances.get(name)
        if balance is None or self._here <= {name}:
            return False
        waited = self._quantum - balance.quantum
        return balance.virtual > self._virtual and waited <= MAX_WAIT_QUANTA

    def used(self, name: str) -> float:
        """What it has used lately, to be compared with others'."""
        balance = self._balances.get(name)
        return balance.used if balance else 0.0

    def charge(self, name: str, seconds: float, now: float, *, feeding: bool = False) -> None:
        """Take note of what somebody has used.

        Args:
            name: the requester.
            seconds: of the model.
            now: monotonic seconds.
            feeding: it was for a prompt, not for an answer. Among equals this is favoured: a first
                token is waited for.
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
            self._virtual = balance.virtual  # nobody was kept waiting
        balance.used += seconds * 2.0 ** ((now - self._since) / HALF_LIFE_SECONDS)

    def _meet(self, here: Set[str]) -> None:
        newcomers, self._here = here - self._here, here
        for name in newcomers:
            balance = self._balance(name)
            balance.virtual = max(balance.virtual, self._virtual)  # nothing is saved up
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

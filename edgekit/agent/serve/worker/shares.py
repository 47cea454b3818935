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
MAX_WAIT_TURNS = 32  # after which it is one's turn, whatever the others have used
MAX_REMEMBERED = 100  # requesters
MAX_HALF_LIVES = 64.0  # of the unit in which is written what was used


@dataclass(slots=True)
class Account:
    """What is known of a requester.

    Attributes:
        used: seconds of the model; later ones count more, so that earlier ones fade.
        virtual: seconds, of which `FAVOUR` may count as one.
        turn: the number of its last one.
    """

    used: float = 0.0
    virtual: float = 0.0
    turn: int = 0


class Shares:
    """The requesters' accounts."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._here: Set[str] = frozenset()
        self._waiting: Set[str] = frozenset()
        self._turn = 0
        self._virtual = 0.0  # where newcomers begin
        self._since = 0.0  # when a second counts one

    def __len__(self) -> int:
        return len(self._accounts)

    def next(self, here: Set[str], waiting: Set[str] = frozenset()) -> str:
        """Whose turn it is.

        Args:
            here: the requesters whose prompts run, at least one.
            waiting: those with prompts that wait.
        """
        self._waiting = waiting
        if here != self._here:
            self._meet(here)
        self._turn += 1
        accounts = [(self._accounts[name], name) for name in here]
        account, name = min(accounts, key=lambda pair: pair[0].turn)
        if self._turn - account.turn <= MAX_WAIT_TURNS:
            account, name = min(accounts, key=lambda pair: (pair[0].virtual, pair[0].turn))
            self._virtual = account.virtual
        account.turn = self._turn
        return name

    def rest(self) -> None:
        """No prompt runs."""
        self._here = self._waiting = frozenset()

    def owes(self, name: str) -> bool:
        """Whether a new prompt of this requester is to wait for others that are here."""
        account = self._accounts.get(name)
        if account is None or self._here <= {name}:
            return False
        waited = self._turn - account.turn
        return account.virtual > self._virtual and waited <= MAX_WAIT_TURNS

    def used(self, name: str) -> float:
        """What it has used lately, to be compared with others'."""
        account = self._accounts.get(name)
        return account.used if account else 0.0

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
        account = self._account(name)
        account.turn = self._turn
        used = [account.used, *map(self.used, self._here | self._waiting)]
        enough = CAUGHT_UP * max(used)
        favoured = account.used < enough or (feeding and min(used) >= enough)
        account.virtual += seconds / FAVOUR if favoured else seconds
        if self._here <= {name}:
            self._virtual = account.virtual  # nobody was kept waiting
        account.used += seconds * 2.0 ** ((now - self._since) / HALF_LIFE_SECONDS)

    def _meet(self, here: Set[str]) -> None:
        newcomers, self._here = here - self._here, here
        for name in newcomers:
            account = self._account(name)
            account.virtual = max(account.virtual, self._virtual)  # nothing is saved up
            account.turn = self._turn

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(virtual=self._virtual, turn=self._turn)
            others = self._accounts.keys() - self._here - {name}
            if others and len(self._accounts) > MAX_REMEMBERED:
                del self._accounts[min(others, key=lambda name: self._accounts[name].used)]
        return account

    def _renew(self, now: float) -> None:
        scale = 0.5 ** ((now - self._since) / HALF_LIFE_SECONDS)
        for account in self._accounts.values():
            account.used *= scale
        self._since = now

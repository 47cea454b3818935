"""How each device of a rollout stands: a table, and what it means for the wave. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from edgekit.core.digest import Digest


class DeviceState(StrEnum):
    """Where a device is in a rollout."""

    WAITING = "waiting"
    STAGING = "staging"
    STAGED = "staged"
    SWITCHING = "switching"
    SOAKING = "on trial"
    GOOD = "good"
    FAILED = "failed"
    AWAY = "away"
    GOING_BACK = "going back"
    BACK = "back"


class Move(StrEnum):
    """What happens to a device."""

    STAGE = "its staging begins"
    STAGED = "staged"
    SWITCH = "its switch begins"
    ANSWERS = "answers"
    GOOD = "is good"
    FAILED = "fails"
    AWAY = "is away"
    AGAIN = "is tried again"
    ASK = "is asked for its verdict"
    GO_BACK = "its way back begins"
    BACK = "is back"


_S, _M = DeviceState, Move
BEGUN = (_S.STAGING, _S.STAGED, _S.SWITCHING, _S.SOAKING)
"""The release is on its way to the device, or on trial there."""
MOVES: dict[tuple[DeviceState, Move], DeviceState] = (
    {
        (_S.WAITING, _M.STAGE): _S.STAGING,
        (_S.STAGING, _M.STAGED): _S.STAGED,
        # Its controller died, or it was away, before the switch began there.
        (_S.SWITCHING, _M.STAGED): _S.STAGED,
        (_S.SOAKING, _M.STAGED): _S.STAGED,
        (_S.STAGED, _M.SWITCH): _S.SWITCHING,
        (_S.STAGING, _M.ANSWERS): _S.SOAKING,
        (_S.SWITCHING, _M.ANSWERS): _S.SOAKING,
        (_S.SOAKING, _M.ANSWERS): _S.SOAKING,
        (_S.AWAY, _M.AGAIN): _S.WAITING,
        (_S.AWAY, _M.ASK): _S.SOAKING,
        (_S.FAILED, _M.AGAIN): _S.WAITING,
        (_S.GOING_BACK, _M.BACK): _S.BACK,
        (_S.GOING_BACK, _M.FAILED): _S.FAILED,
        (_S.GOING_BACK, _M.AWAY): _S.AWAY,
    }
    # A device runs the release already, or has judged it while its controller was dead.
    | {(state, _M.GOOD): _S.GOOD for state in BEGUN}
    | {(state, _M.FAILED): _S.FAILED for state in BEGUN}
    | {(state, _M.AWAY): _S.AWAY for state in BEGUN}
    | {
        (state, _M.GO_BACK): _S.GOING_BACK
        for state in (_S.WAITING, _S.STAGED, _S.SOAKING, _S.GOOD, _S.AWAY)
    }
)

WORKED_ON = (DeviceState.STAGING, DeviceState.SWITCHING, DeviceState.GOING_BACK)
"""A connection to the device is at work."""
ENDED = (DeviceState.GOOD, DeviceState.FAILED, DeviceState.AWAY)
"""The wave need not wait for the device."""


GONE = "fleet.toml does not have it any more"
"""The reason of a device that a rollback cannot reach, because nobody knows where it is."""
SWITCHABLE = (*WORKED_ON, _S.SOAKING, _S.STAGED, _S.GOOD, _S.AWAY)
"""States of devices that this rollout may have switched."""


class DeviceProgress(msgspec.Struct):
    """One device of a rollout.

    Attributes:
        state: where it is.
        reason: why it failed or is away; empty otherwise.
        tries: how often it was away in a row.
        since: Unix seconds of the last move.
        switched: whether this rollout has begun to switch it from another release.
        before: the release that it ran when it was staged; None: nothing.
        due: Unix seconds of the next try of a device that is away.
        stuck: whether a rollback could not take it back.
    """

    state: DeviceState = DeviceState.WAITING
    reason: str = ""
    tries: int = 0
    since: float = 0.0
    switched: bool = False
    due: float = 0.0
    before: Digest | None = None
    stuck: bool = False

    def move(self, move: Move, now: float, reason: str = "") -> bool:
        """Move along the table; whether it has such a move."""
        after = MOVES.get((self.state, move))
        if after is None:
            return False
        self.stuck = (self.state, after) == (DeviceState.GOING_BACK, DeviceState.FAILED)
        self.state, self.since, self.reason = after, now, reason
        if after in (DeviceState.BACK, DeviceState.FAILED):  # it has gone back, or never switched
            self.switched = False
        if after == DeviceState.GOOD:
            self.tries = 0
        return True

    def joined(self, before: Digest | None, release: Digest) -> None:
        """Note that a device that was away has joined by itself: its rollout told it to."""
        if not self.switched and before not in (None, release):
            self.switched, self.before = True, before


def table() -> str:
    """The moves as a Markdown table; equal results share a row."""
    rows: dict[tuple[Move, DeviceState], list[str]] = {}
    for (state, move), after in MOVES.items():
        rows.setdefault((move, after), []).append(state)
    lines = ["| a device that is | then | is |", "|---|---|---|"]
    lines += [f"| {', '.join(froms)} | {move} | {after} |" for (move, after), froms in rows.items()]
    return "\n".join(lines)

"""Where a rollout and its present wave are. Pure."""

from __future__ import annotations

from enum import StrEnum


class RolloutPhase(StrEnum):
    """Where a rollout is."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    ABORTED = "aborted"
    GOING_BACK = "going back"
    BACK = "back"


class WavePhase(StrEnum):
    """Where the present wave is."""

    NEW = "new"
    HOOK_BEFORE = "hook before"
    WORKING = "working"
    JUDGING = "judging"
    SOAKING = "soaking"
    HOOK_AFTER = "hook after"
    OVER = "over"

"""Read the state of a trial from ROOT, and perform the effects that change ROOT."""

from __future__ import annotations

from dataclasses import replace

from edgekit.agent.release import reserve
from edgekit.agent.release.events import (
    CountTry,
    Effect,
    ForgetGoodConfig,
    MoveCurrent,
    OnDisk,
    RecordVerdict,
    RestoreGoodConfig,
    RestorePreviousConfig,
)
from edgekit.agent.release.log import say
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases, StateFileError
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent
from edgekit.store import fsync_folder, replace_link


def found(root: Root) -> OnDisk:
    """Read the current release and what a failed trial can go back to."""
    current = root.linked(root.current)
    row = Releases(root.path).get(current) if current is not None else None
    known = OnDisk(
        current, good_config=root.good_config.exists(), previous=root.linked(root.previous)
    )
    if row is None:
        return known
    return replace(known, state=row.known_state, tries=row.tries, reason=row.reason)


def perform(root: Root, effect: Effect) -> None:
    """Change the disk as `effect` says; ignore effects on processes.

    Raises:
        EdgekitError: the release's transition table has no such move.
    """
    match effect:
        case CountTry(release):
            Releases(root.path).count_try(release)
        case RecordVerdict(release, event, reason):
            if event != ReleaseEvent.ANSWERED:
                reserve.give(root)  # the way back begins
            try:
                Releases(root.path).move(release, event, reason)
            except StateFileError as error:  # a full disk must not stop the way back
                if event == ReleaseEvent.ANSWERED:
                    raise
                say(f"the verdict on {release.short} cannot be recorded: {error.why}")
        case ForgetGoodConfig():
            root.good_config.unlink(missing_ok=True)
        case RestoreGoodConfig() | RestorePreviousConfig():
            of_current = isinstance(effect, RestoreGoodConfig)
            kept = root.good_config if of_current else root.previous_config
            if kept.exists():  # otherwise it was moved before a kill
                kept.replace(root.agent_config)
                fsync_folder(root.agent_config.parent)
        case MoveCurrent(None):
            root.current.unlink(missing_ok=True)
            fsync_folder(root.path)
        case MoveCurrent(Digest() as release):
            replace_link(root.current, str(layout.release(release)), root.previous)

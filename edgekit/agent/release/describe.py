"""What a device says of itself: what runs, since when, why, and what was refused."""

from __future__ import annotations

import time

import msgspec

from edgekit.agent.release import holder, stopped
from edgekit.agent.release.door.sessions import describe_door
from edgekit.agent.release.root import Root
from edgekit.agent.release.runs import answering
from edgekit.agent.release.space.survey import pinned
from edgekit.agent.release.staging.permission import describe_trust
from edgekit.agent.release.state import Release, Releases, TrialRow, UnprovenRow
from edgekit.agent.release.supervisor.process import Supervisor
from edgekit.agent.release.trial.demands import retry_seconds
from edgekit.agent.release.trial.evidence import read_json
from edgekit.agent.release.upkeep.found import last
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState


def describe(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Report what the device runs and since when, for `agent state`."""
    config = root.agent_config.read_bytes() if root.agent_config.exists() else None
    releases = Releases(root.path)
    rows, trial, waits = releases.all(), releases.trial(), releases.unproven()
    current, pid = root.linked(root.current), supervisor.pid()
    answers = pid is not None and answering(root)
    ready = read_json(root.ready_file) if answers else {}
    running = next((row for row in rows if row.digest == current), None)
    return {
        "current": current,
        "previous": root.linked(root.previous),
        "answering": answers,
        "model": ready.get("model"),
        "broker": (read_json(root.broker_file) or None) if answers else None,
        "supervisor_pid": pid,
        "agent_pid": ready.get("pid"),
        "stopped_since": stopped.since(root),
        "config": Digest.of(config) if config is not None else None,
        "since": None if running is None else running.since,
        "answers_since": root.ready_file.stat().st_mtime if answers else None,
        "why": _why(running, rows, trial, waits),
        "unproven": None if waits is None else _unproven(waits),
        "trial": _trial(trial, running),
        "refusals": releases.refusals(),
        "rollouts": releases.heads(),
        "trust": describe_trust(root),
        "quality": _quality(root, current),
        "scrub": msgspec.to_builtins(last(root), enc_hook=str),
        "pinned": sorted(pinned(root)),
        "lease": None if (lease := holder.held(root)) is None else msgspec.to_builtins(lease),
        "door": describe_door(root),
        "releases": [row.to_dict() | {"held": root.release(row.digest).exists()} for row in rows],
    }


def _why(
    running: Release | None, rows: list[Release], trial: TrialRow | None, waits: UnprovenRow | None
) -> str:
    """Why the current release runs, in one sentence."""
    if running is None:
        failed = next((row for row in rows if row.reason), None)
        return f"release {failed.digest.short} failed: {failed.reason}" if failed else ""
    if waits is not None:
        own = waits.digest == running.digest
        what = "its new configuration" if own else f"release {waits.digest.short}"
        if own and running.state == ReleaseState.TRIAL:
            what = "it"
        return f"{what} is unproven: {waits.reason}"
    if running.state == ReleaseState.TRIAL:
        soaks = trial is not None and trial.digest == running.digest and trial.soaked is not None
        return "it answers and soaks" if soaks else "it is on trial"
    if running.reason:
        return f"its new configuration failed: {running.reason}"
    failed = next((row for row in rows if row.state == ReleaseState.BAD), None)
    if failed is not None and rows.index(failed) < rows.index(running):
        return f"release {failed.digest.short} failed: {failed.reason}"
    return "it passed its trial" if running.state == ReleaseState.GOOD else ""


def _quality(root: Root, current: Digest | None) -> dict[str, object] | None:
    """How the current release compares with the one before it; None: nothing is known yet."""
    return None if current is None else read_json(root.release(current) / layout.QUALITY) or None


def _unproven(waits: UnprovenRow) -> dict[str, object]:
    return {
        "digest": waits.digest,
        "since": waits.since,
        "tries": waits.tries,
        "reason": waits.reason,
        "again_after_seconds": retry_seconds(waits.tries),
    }


def _trial(trial: TrialRow | None, running: Release | None) -> dict[str, object] | None:
    """The trial that began last: its release, its silence, and what is left of its soak."""
    if trial is None:
        return None
    soaks = (
        trial.soaked is not None
        and running is not None
        and (running.digest, running.state) == (trial.digest, ReleaseState.TRIAL)
    )
    return {
        "release": trial.digest,
        "began": trial.began,
        "silent_seconds": trial.silent_seconds,
        "soak_seconds": trial.soak_left(time.time()) if soaks else None,
    }

"""What the terms of a rollout mean on this controller: its lease, its hooks, what waits."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from edgekit.core.lease import LeaseWish, as_word
from edgekit.fleet.lease import Lease
from edgekit.fleet.rollout.book import RolloutBook, number_of
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import HookEnded
from edgekit.fleet.rollout.hook import WaveFacts, run_hook
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.waves import RolloutPlan
from edgekit.fleet.rollout.windows.window import parse_window


def lease_of(
    book: RolloutBook, journal: RolloutJournal, plan: RolloutPlan, who: str, *, take_over: bool
) -> Lease:
    """How a rollout holds its devices."""
    about = f"rollout-{number_of(journal)}"
    return Lease(
        LeaseWish(book.identity(), as_word(who), about, take_over=take_over),
        plan.windows,
        plan.terms.lock_wait_seconds,
        keeps=not plan.terms.stage_only,
        head=journal.head,
    )


def hooks_of(
    folder: Path,
    journal: RolloutJournal,
    plan: RolloutPlan,
    ended: threading.Event,
    say: Callable[[str], None],
) -> Callable[[int, bool], HookEnded]:
    """What runs the hooks of a rollout in the project's folder."""

    def hook(wave: int, after: bool) -> HookEnded:
        argv = plan.terms.hook_after if after else plan.terms.hook_before
        devices = journal.replay().waves[wave - 1]  # an absent canary is replaced
        say(f"hook {'after' if after else 'before'} wave {wave}: {shlex.join(argv)}")
        facts = WaveFacts(number_of(journal), wave, devices, plan.release)
        return run_hook(argv, facts, folder, plan.terms.hook_seconds, ended)

    return hook


def window_line(rollout: Rollout, device: str) -> str:
    """For what a staged device waits; empty: for no window."""
    window = rollout.plan.windows.get(device, "")
    if rollout.devices[device].state != DeviceState.STAGED or rollout.openings.may_switch(device):
        return ""
    if (opens := parse_window(window).next_change(time.time())) is None:
        return ""
    until = datetime.fromtimestamp(opens).astimezone()
    return f"{device}: staged; it is switched from {until:%Y-%m-%d %H:%M} on ({window})"

"""What a device does for its disk by itself: it collects garbage, and scrubs once a week.

The supervisor starts a child for it (`schedule`). The child has the lowest priorities. It takes the
update lock for one removal at a time; a push or another verb that comes waits for that and is not
refused.
"""

from __future__ import annotations

import time

from edgekit.agent.release import lease
from edgekit.agent.release.log import say
from edgekit.agent.release.root import Root
from edgekit.agent.release.space.collect import collect
from edgekit.agent.release.space.survey import blobs_of, broken_off
from edgekit.agent.release.upkeep.found import is_due, last
from edgekit.agent.release.upkeep.quiet import BYTES_PER_SECOND, be_quiet
from edgekit.agent.release.upkeep.scrub import scrub
from edgekit.errors import EdgekitError


def keep_up(root: Root) -> None:
    """Do what is due; the child's whole work. What is at work meanwhile comes first."""
    be_quiet()
    try:
        freed = collect_in_steps(root)
        if freed:
            say(f"collected {freed:,} bytes that no release needs")
        before = last(root)
        if (before is not None and before.position) or is_due(before, time.time()):
            done = scrub(root, BYTES_PER_SECOND)
            for each in done.found:
                if each.at >= done.started:
                    say(f"damaged: {each.kind} {each.digest.short}: {each.what}; {each.done}")
    except EdgekitError as error:
        say(f"the disk is looked after later: {error.what}")


def collect_in_steps(root: Root) -> int:
    """Collect one thing at a time while no push is at work; return the bytes that were freed.

    What a push that broke off has sent stays for a week.

    Raises:
        EdgekitError: another verb holds the update lock.
    """
    freed = 0
    while True:
        with root.updating(yields=True):
            if lease.is_held(root):
                return freed
            offered = broken_off(root)
            wanted = blobs_of(root, offered) if offered is not None else []
            done = collect(root, offered, wanted, most=1)
        freed += done.freed
        if not done.pieces:
            return freed

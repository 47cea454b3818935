"""Measure the runtime's threads again, after a first start on a busy device.

The worker measures at a start for which `tuning.json` has no result (`docs/adr/0012`). So the
result of `current` is removed, and the agent is told to end: it finishes what it answers, and its
supervisor starts it again.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.trial.evidence import read_json
from edgekit.core.config import parse_known_agent_config
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import publish


def retune(root: Root) -> dict[str, object]:
    """Forget the results of `current` and let a running agent start again.

    Returns:
        `forgotten`: how many results were removed; `restarted`: whether an agent ran.

    Raises:
        UsageError: `agent.toml` sets the threads; the worker then measures nothing.
        EdgekitError: no release is active, or another update is at work.
    """
    with root.updating():
        current = root.linked(root.current)
        if current is None:
            raise EdgekitError("no release is active on this device", next_step="push one to it")
        config = parse_known_agent_config(root.agent_config.read_bytes())
        if config.threads:
            raise UsageError(
                f"{config.device} has threads = {config.threads} in its configuration",
                "a device whose threads are set measures none",
                "remove threads from its table in fleet.toml and push, then run it again",
            )
        forgotten = _forget(root, current)
        return {"forgotten": forgotten, "restarted": _end_agent(root)}


def _forget(root: Root, release: str) -> int:
    try:
        kept = msgspec.json.decode(root.tuning_file.read_bytes(), type=list[dict[str, object]])
    except (OSError, *UNREADABLE):
        root.tuning_file.unlink(missing_ok=True)  # a damaged file is measured again all the same
        return 0
    others = [each for each in kept if not str(each.get("key")).startswith(f"{release} ")]
    if len(others) < len(kept):
        publish(root.tuning_file, msgspec.json.encode(others))
    return len(kept) - len(others)


def _end_agent(root: Root) -> bool:
    """Send SIGTERM to the agent that the ready file names, if that is an agent of this ROOT."""
    try:
        pid = int(str(read_json(root.ready_file)["pid"]))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, KeyError, ValueError):
        return False
    if b"serve" not in words or os.fsencode(root.path) not in words:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    return True

"""What a trial has before it: the demands of a release, and the reports of its agent."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.trial.events import Demands, Reported
from edgekit.core import layout
from edgekit.core.config import AgentConfig
from edgekit.core.golden import Golden, TrialReport
from edgekit.core.manifest import parse_config
from edgekit.core.reading import UNREADABLE


def demands_of(root: Root, config: AgentConfig) -> Demands:
    """Read what the current release has to show.

    Raises:
        EdgekitError: its bundle cannot be read.
        msgspec.MsgspecError: its golden prompts cannot be read.
    """
    folder = root.current.resolve()
    bundle = parse_config((folder / layout.BUNDLE_CONFIG).read_bytes())
    golden = folder / layout.GOLDEN
    trial = Releases(root.path).trial()
    return Demands(
        golden=msgspec.json.decode(golden.read_bytes(), type=Golden) if golden.exists() else None,
        min_tokens_per_second=config.min_tokens_per_second,
        max_rss_bytes=config.max_rss_bytes or bundle.fit.ram_bytes,
        slot_bytes=0 if config.max_rss_bytes else bundle.context_length * bundle.kv_bytes_per_token,
        broker=f"the broker {config.broker}",
        was_connected=trial is None or trial.connected,
    )


class Reports:
    """The reports in `run/trial.json`, each of them once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0

    def next(self) -> Reported | None:
        """Return the newest report, or None if it was returned before or cannot be read."""
        try:
            written = self._path.stat().st_mtime_ns
            if written == self._seen:
                return None
            self._seen = written
            return Reported(msgspec.json.decode(self._path.read_bytes(), type=TrialReport))
        except (OSError, *UNREADABLE):
            return None


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object that the running agent wrote; empty if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, *UNREADABLE):
        return {}
    return found if isinstance(found, dict) else {}


def slots_of(ready: dict[str, object]) -> int:
    """How many prompts the agent of a ready file runs side by side."""
    model = ready.get("model")
    slots = model.get("slots") if isinstance(model, dict) else None
    return slots if isinstance(slots, int) and slots > 0 else 1

"""A record of golden prompts that is kept: the same model, computed the same way, gives the same.

Two packs on one machine record the same bytes (`tests/system/test_golden.py`), so a second one
reads what the first one computed. The name of a kept record is the digest of all that decides it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.bundle.folder import ModelFolder
from edgekit.core.digest import Digest
from edgekit.core.golden import GoldenPrompt
from edgekit.store import publish

CPUINFO = Path("/proc/cpuinfo")
_CHANGES = ("processor", "cpu mhz", "bogomips", "core id", "apicid", "initial apicid", "power")


def record_path(
    cache: Path, folder: ModelFolder, agent: Digest, runtime: str, context: int
) -> Path | None:
    """Where the record of a model is kept; None for a folder whose bytes nobody has checked.

    Args:
        cache: folder that keeps records.
        folder: a model folder; if it has a record, `check_bytes` has compared it.
        agent: of the agent layer, whose code records.
        runtime: name of the runtime that computes, which its lock decides.
        context: of the bundle, in tokens.
    """
    if folder.record is None:
        return None
    model = {name: folder.record.files[name].sha256 for name in folder.model}
    decides = msgspec.json.encode([str(agent), runtime, context, _cpu(), model], order="sorted")
    return cache / "golden" / f"{Digest.of(decides).hex}.json"


def read_record(path: Path | None) -> list[GoldenPrompt] | None:
    """A kept record; None if there is none, or none that can be read."""
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[GoldenPrompt])
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def keep_record(path: Path | None, prompts: list[GoldenPrompt]) -> None:
    """Keep a record, if it has a place."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, msgspec.json.encode(prompts))


def _cpu() -> list[str]:
    """What /proc/cpuinfo says of the CPU's kind: another one may round otherwise."""
    try:
        lines = set(CPUINFO.read_text("utf-8", "replace").splitlines())
    except OSError:
        return []
    return sorted(line for line in lines if not line.lower().startswith(_CHANGES))

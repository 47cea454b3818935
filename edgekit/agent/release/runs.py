"""What runs, and whether it already is what an activation would make of the device."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.agent.release import lease
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.process import Supervisor
from edgekit.agent.release.trial.evidence import read_json
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState


def answering(root: Root) -> bool:
    """Whether the process that wrote the ready file lives: the file alone may be left behind."""
    pid = read_json(root.ready_file).get("pid")
    if not isinstance(pid, int):
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    ended = fields.get("State", "Z").strip().startswith(("Z", "X"))
    return not ended and str(root.path).encode() in command  # else another process has the id


def unchanged(
    root: Root, digest: Digest, supervisor: Supervisor, config: bytes
) -> dict[str, object] | None:
    """The answer of an activation that changes nothing; None if it would change something.

    An unproven release is given up then: what runs was asked for since. An unproven configuration
    of this release makes it no answer: a trial shows what is asked for now.
    """
    if (
        root.linked(root.current) != digest
        or config != config_of(root)
        or supervisor.pid() is None
        or not answering(root)
        or root.mended_file.exists()
        or (shown := shown_good(root, digest, changed=False)) is None
        or not keeps(root, digest)
    ):
        return None
    root.stopped_file.unlink(missing_ok=True)  # of a stop that was killed
    lease.release(root)
    return shown


def keeps(root: Root, digest: Digest, *, configuration: bool = False) -> bool:
    """Whether `current` is this release, and stays it: another one that is unproven is given up.

    Whoever asks for the release that runs does not want the one that waits to take its place.

    Args:
        root: the device's folder.
        digest: the release.
        configuration: give up one that waits for the same release, too.
    """
    if not _waits(root, digest, configuration=configuration):
        return root.linked(root.current) == digest
    with root.switching():
        if root.linked(root.current) != digest or on_trial(root, digest):
            return False
        Releases(root.path).end_waiting()
        root.next_config.unlink(missing_ok=True)
    return True


def _waits(root: Root, digest: Digest, *, configuration: bool) -> bool:
    """Whether something unproven waits to take the place of what runs."""
    waits = Releases(root.path).unproven()
    if waits is None or waits.digest != digest:
        return waits is not None
    return configuration and not on_trial(root, digest)


def on_trial(root: Root, digest: Digest) -> bool:
    """Whether a release is on trial, also with a configuration that is new to it."""
    known = Releases(root.path).get(digest)
    return known is not None and known.state == ReleaseState.TRIAL


def config_of(root: Root) -> bytes | None:
    """The bytes of the present `agent.toml`; None without one."""
    return root.agent_config.read_bytes() if root.agent_config.exists() else None


def shown_good(root: Root, digest: Digest, *, changed: bool) -> dict[str, object] | None:
    """The answer once a release is good, or has only its soak before it; else None."""
    release, trial, waits = Releases(root.path).standing(digest)
    if release is None or (waits is not None and waits.digest == digest and waits.waiting):
        return None
    of_this = trial if trial is not None and trial.digest == digest else None
    answer: dict[str, object] = {"release": digest, "state": release.state, "changed": changed}
    if of_this is not None and changed:
        answer["silent_seconds"] = of_this.silent_seconds
    if release.state == ReleaseState.GOOD:
        return answer
    if release.state != ReleaseState.TRIAL or of_this is None or of_this.soaked is None:
        return None
    return answer | {"soak_seconds": of_this.soak_left(time.time())}

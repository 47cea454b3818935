"""Which supervisor a device has, as `ROOT/etc/supervisor` says; Detached without that file.

A power cut can leave it empty: then `ROOT/etc/enrolled.json` says what `enroll` wrote there.
"""

from __future__ import annotations

from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.agent.release.supervisor.process import Supervised
from edgekit.agent.release.supervisor.systemd import Systemd
from edgekit.agent.release.trial.evidence import read_json
from edgekit.core import layout
from edgekit.errors import EdgekitError

KINDS: dict[str, type[Supervised]] = {"detached": Detached, "systemd": Systemd}
# The words that `edgekit enroll` writes; cron starts a detached supervisor after a reboot.
_WORDS = {"cron": "detached", "systemd-system": "systemd", "systemd-user": "systemd"}


def supervisor_of(root: Root) -> Supervised:
    """The device's supervisor.

    Raises:
        EdgekitError: the file names a supervisor that this agent does not know.
    """
    try:
        kind = root.supervisor_file.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        kind = "detached"
    if not kind:
        kind = str(read_json(root.path / layout.ENROLLED_FILE).get("starts") or "detached")
    kind = _WORDS.get(kind, kind)
    if kind not in KINDS:
        raise EdgekitError(
            f"{layout.SUPERVISOR_FILE} names a supervisor that this agent does not know: {kind!r}",
            f"it knows {', '.join(KINDS)}",
            "enroll the device again, or push a release of the edgekit that enrolled it",
        )
    return KINDS[kind](root)

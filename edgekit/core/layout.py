"""The paths below ROOT, a device's folder, and the environment of a release. Pure.

The agent (`agent.release.root`), the argv of a push (`fleet.commands`) and the reader of the probe
use these paths. The scripts for a device without an agent (`agent/release/door/probe.py`,
`fleet/receive.py`) and the systemd units have literals of their own; tests check that they agree.
Devices of every fleet have these paths on disk: a path never changes.
"""

from __future__ import annotations

from pathlib import PurePath, PurePosixPath

from edgekit.core.digest import Digest

CURRENT = "current"  # a link to the release that runs
PREVIOUS = "previous"  # a link to the release to go back to
OLDER = "older"  # during a trial, a link to what `previous` named before it
BOOTSTRAP = "bootstrap"  # a link to the agent of a first contact, `bootstrap-<start of a sha256>`

ETC = PurePosixPath("etc")
RUN = PurePosixPath("run")
LOG = PurePosixPath("log")
RELEASES = PurePosixPath("releases")
TREES = PurePosixPath("trees")
BLOBS = PurePosixPath("blobs/sha256")  # as in an OCI image layout

AGENT_CONFIG = ETC / "agent.toml"
PREVIOUS_CONFIG = ETC / "agent.toml.previous"
GOOD_CONFIG = ETC / "agent.toml.good"
NEXT_CONFIG = ETC / "agent.toml.next"  # of the next trial: one that begins, or an unproven one
ENROLLED_FILE = ETC / "enrolled.json"  # exists once `edgekit enroll` is done
TRUST = ETC / "trust"  # the root of trust and the newest verified metadata
HARDWARE_FILE = ETC / "hardware"  # names of hardware, one a line, beside the platform
SUPERVISOR_FILE = ETC / "supervisor"  # which supervisor the device has; none: detached
STOPPED_FILE = ETC / "stopped"  # exists after `stop`: the agent stays down, also after a reboot
READY_FILE = RUN / "ready.json"
TRIAL_FILE = RUN / "trial.json"
BROKER_FILE = RUN / "broker.json"
SHOWN_FILE = RUN / "home-assistant"  # exists while Home Assistant may be shown the device
PID_FILE = RUN / "supervisor.pid"
START_FILE = RUN / "start"  # systemd starts the supervisor when it appears
SWITCH_LOCK = RUN / "switch.lock"
LEASE_FILE = RUN / "push.lease"
HOLDER_FILE = RUN / "holder.json"  # which rollout holds the device, and until when
HOLDER_LOCK = RUN / "holder.lock"
UPDATE_LOCK = RUN / "update.lock"
PYCACHE = RUN / "pycache"
HASHED_FILE = RUN / "blobs.json"  # what blobs looked like when they were hashed
WHOLE_TREES_FILE = RUN / "trees.json"  # what trees looked like when they were whole
LOG_FILE = LOG / "agent.log"
RELEASES_DB = PurePosixPath("state.db")
JOURNAL = PurePosixPath("journal.db")
TUNING_FILE = PurePosixPath("tuning.json")
RESERVE_FILE = PurePosixPath("reserve")  # bytes that a way back may need on a full disk
PINNED_FILE = ETC / "pinned"  # digests of releases that are never collected, one a line
SCRUB_FILE = PurePosixPath("scrub.json")  # how far the last scrub came, and what it found
OFFERED_FILE = RUN / "offered"  # the digest of the release that a push offered last
MENDED_FILE = RUN / "mended"  # files of `current` were replaced since it started
DESIRED_FILE = RUN / "desired.json"  # what the broker says that this device shall run
UPDATE_FILE = RUN / "update.json"  # what the device made of it
SCRUB_LOCK = RUN / "scrub.lock"
DOOR_SESSIONS = RUN / "door"  # a file for each session of the door, by the id of its process

# In a release's folder
AGENT, RUNTIME = "agent", "runtime"  # links to its trees
MODEL = "model"
BUNDLE_CONFIG = "bundle.json"
GOLDEN = "golden.json"
BASELINE = "baseline.json"  # what it said here, for the release after it
QUALITY = "quality.json"  # how it compares with the release before it

PATH = "/usr/bin:/bin"  # of every process that edgekit starts on a device


def blob(digest: Digest) -> PurePosixPath:
    """The path of a blob."""
    return BLOBS / digest.hex


def part(digest: Digest) -> PurePosixPath:
    """The path where an unfinished transfer of a blob collects its bytes."""
    return BLOBS / f"{digest.hex}.part"


def release(digest: Digest) -> PurePosixPath:
    """The folder of a staged release; the links `current` and `previous` point to such folders."""
    return RELEASES / digest.hex


def tree(layer: Digest) -> PurePosixPath:
    """The folder of an unpacked layer."""
    return TREES / layer.hex


def release_trees(folder: PurePath) -> tuple[PurePath, ...]:
    """The trees from which a release's Python imports, given its folder."""
    return folder / AGENT, folder / RUNTIME


def bootstrap_trees(root: PurePath) -> tuple[PurePath, ...]:
    """The tree from which the Python of a first contact imports."""
    return (root / BOOTSTRAP,)


def environment(root: PurePath, trees: tuple[PurePath, ...]) -> dict[str, str]:
    """The whole environment of the agent's processes: Python imports from these trees alone.

    Args:
        root: absolute path of ROOT.
        trees: absolute paths of the trees of a release or of the bootstrap.
    """
    return {
        "PATH": PATH,
        "HOME": str(root),
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(map(str, trees)),
        "PYTHONPYCACHEPREFIX": str(root / PYCACHE),
        "PYTHONUNBUFFERED": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }

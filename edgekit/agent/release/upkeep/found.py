"""What scrubs have found: the file `ROOT/scrub.json`. Light: `agent state` reads it, too."""

from __future__ import annotations

import msgspec

from edgekit.agent.release.root import Root
from edgekit.core.digest import Digest, decode_hook
from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError

DUE_SECONDS = 7 * 86_400.0  # from the end of one scrub by itself to the start of the next


class Damage(msgspec.Struct, frozen=True):
    """One thing that was damaged.

    Attributes:
        kind: `blob`, `tree` or `file` (of a release).
        digest: of the blob, the tree's layer or the file.
        what: what is wrong with it.
        done: what was done about it.
        mended: whether it is whole again.
        at: Unix seconds.
    """

    kind: str
    digest: Digest
    what: str
    done: str
    mended: bool
    at: float


class Scrubbed(msgspec.Struct, frozen=True):
    """How far a scrub came; the file `ROOT/scrub.json`.

    Attributes:
        started, finished: Unix seconds; finished is 0 while it is under way.
        position: the last thing that was checked, `blob HEX` or `tree HEX`; empty after the end.
        checked: how many blobs and trees; `checked_bytes` in all.
        found: what was damaged, in this scrub and those before; the last `MAX_KEPT_DAMAGE`.
    """

    started: float = 0.0
    finished: float = 0.0
    position: str = ""
    checked: int = 0
    checked_bytes: int = 0
    found: list[Damage] = []


def last(root: Root) -> Scrubbed | None:
    """The last scrub as its file says it; None without one, or if it cannot be read."""
    try:
        data = root.scrub_file.read_bytes()
        return msgspec.json.decode(data, type=Scrubbed, dec_hook=decode_hook)
    except (OSError, *UNREADABLE, VerificationError):
        return None


def is_due(before: Scrubbed | None, now: float) -> bool:
    """Whether a scrub by itself is due: none was finished within a week, by a clock that may jump.

    Args:
        before: the last scrub.
        now: Unix seconds.
    """
    return before is None or not 0 <= now - before.finished < DUE_SECONDS

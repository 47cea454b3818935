"""What a device did not take, on record: `agent state` says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.libraries import UnfitError
from edgekit.agent.release.state import Releases
from edgekit.core.digest import Digest
from edgekit.core.room import NoRoomError
from edgekit.errors import EdgekitError, VerificationError


@contextmanager
def on_record(root: Root, release: Digest, *, offered: bool) -> Iterator[None]:
    """Record why a release is not taken, and raise the same error.

    Args:
        root: the device's folder.
        release: what is staged.
        offered: it is offered now. Later a VerificationError speaks of damaged bytes, which the
            push sends again.
    """
    try:
        yield
    except EdgekitError as error:
        kinds = (UnfitError, NoRoomError, *((VerificationError,) if offered else ()))
        if isinstance(error, kinds):
            with suppress(EdgekitError, OSError):  # a full disk: the error is told all the same
                Releases(root.path).refused(release, error.what, error.why)
        raise

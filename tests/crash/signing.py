"""Who signs the releases of the matrix: one project, whose metadata is made once for each moment.

Verification is pure, so `remembered` does it once for each distinct input; thousands of cases ask
the same. An equal offer also leaves an equal disk, which the matrix checks once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import msgspec

from edgekit.errors import EdgekitError
from edgekit.trust.signed import Metadata, Offered
from tests.crash.bundles import Bundle
from tests.metadata_maker import Maker

ROTATED = "keys rotated"  # a moment: the project has another root key, and signed all again


class Project:
    """A project's releases, in the order of their counters; it permits to go back to each.

    Args:
        bundles: the releases.
        now: when they are signed, in Unix seconds.
    """

    def __init__(self, bundles: Iterable[Bundle], now: float) -> None:
        maker = Maker(now=now)
        signed = [bundle.manifest for bundle in bundles]
        for counter, manifest in enumerate(signed, 1):
            maker.sign(manifest, counter, rollback=len(signed))
        self.metadata = {"": maker.made()}
        maker.rotate("root", "another root key")
        maker.rotate("targets", "another targets key")
        maker.bump()
        self.metadata[ROTATED] = maker.made()

    def offer(self, manifest: bytes, moment: str = "") -> bytes:
        """The standard input of `agent stage DIGEST --offer`."""
        said = Offered(manifest.decode("latin-1"), self.metadata[moment])
        return msgspec.json.encode(said)


def remembered(accept: Callable[..., Any]) -> Callable[..., Any]:
    """`accept`, which does its work once for each distinct input; a refusal is remembered, too."""

    @cache
    def once(kept: Any, anchor: str | None, offered: bytes, clock: float) -> tuple[Any, Any]:
        try:
            return accept(kept, anchor, msgspec.json.decode(offered, type=Metadata), clock), None
        except EdgekitError as error:
            return None, error

    def accepts(kept: Any, anchor: str | None, offered: Metadata, clock: float) -> Any:
        trusted, error = once(kept, anchor, msgspec.json.encode(offered), clock)
        if error is not None:
            raise error
        return trusted

    return accepts

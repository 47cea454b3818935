"""A project's metadata and a device that believes it, in values: for tests of `accept`."""

from __future__ import annotations

import time
from typing import Any

import pytest

from edgekit.errors import VerificationError
from edgekit.trust.metadata import (
    KeptTrust,
    TrustedSet,
    accept,
)
from edgekit.trust.signed import Metadata
from tests.metadata_maker import Maker

NOW = time.time()
DAY = 86400.0
DATA = b"not a manifest, but the metadata does not look into it"


def maker(**changed: Any) -> Maker:
    made = Maker(now=NOW, **changed)
    made.sign(DATA, 1)
    return made


def keep(trusted: TrustedSet) -> KeptTrust:
    return KeptTrust(
        "", trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets, trusted.signed_at
    )


def first(made: Maker) -> KeptTrust:
    """A device that has seen this project."""
    return keep(accept(None, made.roots[0], made.made(), NOW))


def refused(
    kept: KeptTrust | None, offered: Metadata, *words: str, anchor: str | None = None,
    clock: float = NOW,
) -> VerificationError:  # fmt: skip
    with pytest.raises(VerificationError) as caught:
        accept(kept, anchor, offered, clock)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert caught.value.exit_code == 4
    assert caught.value.next_step, text
    return caught.value


def next_of(made: Maker) -> Metadata:
    made.bump()
    return made.made()

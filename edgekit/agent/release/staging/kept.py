"""ROOT/etc/trust on a device: the root that was trusted first, and what was verified last.

    root.json         the first root, put there by `enroll`
    first.root.json   the first root, taken from the first push (trust on first use)
    trusted.json      `KeptTrust`: the newest verified files, replaced by one rename

All that belongs together is one file, so that a crash cannot mix two versions. `trusted.json`
counts only with the first root that it names: where it is damaged, or `enroll` has put another root
there, the device begins again from that root.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError
from edgekit.store import publish
from edgekit.trust.metadata import KeptTrust, TrustedSet
from edgekit.trust.repeat import proof_of

ENROLLED = "root.json"
FIRST_USE = "first.root.json"
TRUSTED = "trusted.json"
MAX_KEPT_BYTES = 16 << 20


class TrustOnDisk(msgspec.Struct, frozen=True):
    """What ROOT/etc/trust says.

    Attributes:
        anchor: the text of the first root; None: the device trusts no root yet.
        enrolled: whether `enroll` put it there.
        kept: what was verified last, if it can be read and belongs to that root.
    """

    anchor: str | None = None
    enrolled: bool = False
    kept: KeptTrust | None = None


def read_trust(folder: Path) -> TrustOnDisk:
    """Read the folder; raises VerificationError if the first root's file cannot be used."""
    for name in (ENROLLED, FIRST_USE):
        anchor = _read(folder / name)
        if anchor is not None:
            return TrustOnDisk(anchor, name == ENROLLED, _kept(folder, anchor))
    return TrustOnDisk()


def _kept(folder: Path, anchor: str) -> KeptTrust | None:
    try:
        text = _read(folder / TRUSTED)
        kept = None if text is None else msgspec.json.decode(text, type=KeptTrust)
    except (*UNREADABLE, VerificationError):
        return None
    # `enroll` may put the root that a first push had led to in the place of the first one.
    belongs = kept is not None and (kept.anchor == _digest(anchor) or kept.root == anchor)
    return kept if belongs else None


def _digest(text: str) -> str:
    return Digest.of(text.encode()).hex


def _read(path: Path) -> str | None:
    why = "it is damaged"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEPT_BYTES + 1)
        text = data.decode() if len(data) <= MAX_KEPT_BYTES else ""
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        text = ""
    except OSError as error:  # a folder in its place, a disk that cannot read it
        text, why = "", str(error.strerror)
    if not text:
        raise VerificationError(
            f"{path} cannot be read, so this device trusts no release",
            why,
            "`edgekit enroll` the device again, or remove the file on the device",
        )
    return text


def write_trust(folder: Path, before: TrustOnDisk, trusted: TrustedSet) -> None:
    """Remember what was verified; a device that trusts no root yet begins to trust this one.

    Nothing is written when nothing has changed.
    """
    anchor = before.anchor or trusted.first_root
    kept = KeptTrust(
        _digest(anchor), trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets,
        trusted.signed_at,
    )  # fmt: skip
    kept = msgspec.structs.replace(kept, proof=proof_of(kept))
    if kept == before.kept:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    if before.anchor is None:
        publish(folder / FIRST_USE, anchor.encode(), 0o600)
    publish(folder / TRUSTED, msgspec.json.encode(kept), 0o600)

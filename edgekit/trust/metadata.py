"""Verify the metadata of a push by the rules of TUF's client (specification 1.0.34, section 5.3).

python-tuf's `TrustedMetadataSet` checks signatures, thresholds, versions, hashes and expiry. It is
what `tuf.ngclient` uses, and private there: tuf is pinned, and a test holds the name. Pure but for
its import (`trust.rules`): tuf is loaded by the first verification, for most verbs of a device need
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError
from edgekit.trust.rules import NEVER, begin
from edgekit.trust.signed import Metadata, Offered, SignedTarget

if TYPE_CHECKING:
    from tuf.api.metadata import Root
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

SIGNED_AT = "edgekit.signed_at"  # in timestamp.json: when it was signed, in Unix seconds
LIFETIMES = {  # of a file that has just been signed; half of it is where a warning begins
    "root": timedelta(days=5 * 365),
    "targets": timedelta(days=2 * 365),
    "snapshot": timedelta(days=365),
    "timestamp": timedelta(days=365),
}
RENEWED_BY = {
    "root": "`edgekit key rotate root` renews it",
    "targets": "`edgekit sign NAME:VERSION` renews it",
    "snapshot": "`edgekit push` renews it",
    "timestamp": "`edgekit push` renews it",
}
MAX_BYTES = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000, "targets": 5_000_000}
"""Of each file; the limits of tuf.ngclient."""
MAX_ROOTS = 256
MAX_OFFER_BYTES = 64 << 20  # MAX_ROOTS roots of a usual size, and the rest
_LAST = datetime(9999, 12, 31, tzinfo=UTC)
KEY_KIND = ("ed25519", "ed25519")  # what a device can verify without the package cryptography


class KeptTrust(msgspec.Struct, frozen=True):
    """What a device remembers: `ROOT/etc/trust/trusted.json`, replaced as one file.

    Attributes:
        anchor: sha256 of the root that the device trusted first, in hex.
        root, timestamp, snapshot, targets: texts of the newest verified files.
        signed_at: the latest signing time that was verified, in Unix seconds.
        proof: which code has verified these files (`trust.repeat`); empty: an earlier agent's.
    """

    anchor: str
    root: str
    timestamp: str
    snapshot: str
    targets: str
    signed_at: int
    proof: str = ""


class TrustedSet(msgspec.Struct, frozen=True):
    """Files that were verified together.

    Attributes:
        first_root: the root from which the verification began.
        root, timestamp, snapshot, targets: their texts.
        signed_at: the latest verified signing time, in Unix seconds.
        releases: the targets of targets.json by their path.
        warnings: what will expire soon, as sentences.
    """

    first_root: str
    root: str
    timestamp: str
    snapshot: str
    targets: str
    signed_at: int
    releases: Mapping[str, SignedTarget]
    warnings: tuple[str, ...]


class _Versioned(msgspec.Struct, frozen=True):
    version: int


class _AnyFile(msgspec.Struct, frozen=True):
    signed: _Versioned


def parse_offered(data: bytes) -> Offered:
    """Decode the standard input of `agent stage DIGEST --offer`.

    Raises:
        VerificationError: it is too large, cannot be read, or is a manifest without metadata.
    """
    if len(data) > MAX_OFFER_BYTES:
        raise VerificationError(
            "the offer is too large", f"more than {MAX_OFFER_BYTES:,} bytes; nothing was read"
        )
    try:
        offered = msgspec.json.decode(data, type=Offered)
    except UNREADABLE as error:
        if b'"schemaVersion"' in data:
            raise unsigned("the edgekit that pushed is from before signed releases") from None
        raise VerificationError("the offer cannot be read", str(error), "push again") from error
    return offered


def unsigned(why: str) -> VerificationError:
    """The error for a release that comes without signed metadata."""
    return VerificationError(
        "the release came without signed metadata, and this device takes none unsigned",
        why,
        "push it with a newer edgekit: `edgekit sign NAME:VERSION`, then `edgekit push`",
    )


def device_time(clock: float, signed_at: int) -> datetime:
    """The later one of the clock and the last verified signing time, in Unix seconds.

    A device without a battery begins in 1970 at each start.
    """
    seconds = max(clock, float(signed_at), 0.0)
    return datetime.fromtimestamp(min(seconds, _LAST.timestamp()), UTC)


def accept(
    kept: KeptTrust | None, anchor: str | None, offered: Metadata, clock: float
) -> TrustedSet:
    """Verify offered metadata against what a device trusts.

    Args:
        kept: what was verified last; None if nothing was, or if it cannot be read.
        anchor: the root that the device trusted first; None: the offered chain's first root is
            trusted (trust on first use).
        offered: of the push, or of a folder.
        clock: the device's clock in Unix seconds.

    Raises:
        VerificationError: a file is too large, or the rules refuse it; nothing of it may be used.
    """
    check_sizes(offered)
    files = _begin(kept.root) if kept else None
    if files is None:  # nothing was kept, or its root is damaged
        kept, first = None, anchor or (offered.roots[0] if offered.roots else "")
        files = _begin(first)
    else:
        assert kept is not None, "it was begun with"
        first = kept.root
    if files is None:
        raise VerificationError(
            "this device cannot trust any root.json that it has or was offered",
            "it has no root of trust, and none was offered"
            if not first
            else "it is not signed by its own keys, or is damaged",
            "push again, or `edgekit enroll` the device",
        )
    root = _follow(files, first, offered.roots)
    signed_at = _load_kept_timestamp(files, kept)
    now = files.reference_time = device_time(clock, signed_at)
    timestamp, signed_at = _load_timestamp(files, kept, offered, signed_at)
    now = files.reference_time = device_time(now.timestamp(), signed_at)
    if files.root.is_expired(now):
        raise _expired("root", now, _signing_time(files))
    snapshot = _load(files, "snapshot", kept.snapshot if kept else "", offered.snapshot)
    targets = _load(files, "targets", kept.targets if kept else "", offered.targets)
    return TrustedSet(
        first, root, timestamp, snapshot, targets, signed_at,
        _releases(files), tuple(_warnings(files, now)),
    )  # fmt: skip


def check_sizes(offered: Metadata) -> None:
    """Refuse metadata of which a file, or the chain of roots, is longer than any should be."""
    texts = [("root", text) for text in offered.roots]
    texts += [(name, getattr(offered, name)) for name in ("timestamp", "snapshot", "targets")]
    if len(offered.roots) > MAX_ROOTS:
        raise VerificationError(
            f"the metadata has more than {MAX_ROOTS} versions of root.json",
            "a device follows no longer chain",
            "`edgekit enroll` the device again: it then begins at the newest root",
        )
    for name, text in texts:
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES[name]:
            raise VerificationError(
                f"{name}.json is too large",
                f"a device takes at most {MAX_BYTES[name]:,} bytes",
                "push from the project that signed the release",
            )


def check_keys(root: Root) -> None:
    """Accept Ed25519 keys alone, each under one id: a key that has two would count twice.

    Raises:
        VerificationError: a key is another one.
    """
    for key in root.keys.values():
        if (key.keytype, key.scheme) != KEY_KIND:
            raise VerificationError(
                f"root.json has a key of the kind {key.keytype}/{key.scheme}",
                "a device verifies Ed25519 alone",
                "`edgekit key revoke` that key, then push again",
            )
    values = [str(key.keyval.get("public", "")).lower() for key in root.keys.values()]
    if len(set(values)) < len(values):
        raise VerificationError(
            "root.json has one key under two names",
            "it would count twice for a threshold",
            "`edgekit key revoke` one of them, then push again",
        )


def _releases(files: TrustedMetadataSet) -> dict[str, SignedTarget]:
    listed = files.targets.targets.items()
    return {path: SignedTarget(one.length, one.hashes, one.custom) for path, one in listed}


def _begin(root: str) -> TrustedMetadataSet | None:
    """A set that trusts one root; None if that is none that can be trusted."""
    try:
        return begin(root.encode())
    except Exception:  # whatever it is
        return None


def _follow(files: TrustedMetadataSet, first: str, offered: list[str]) -> str:
    """Follow the chain of roots from `first` on; the text of the newest root."""
    newest = first
    check_keys(files.root)
    for text in offered:
        if _version(text, "root") <= files.root.version:
            continue
        try:
            files.update_root(text.encode())
        except Exception as error:
            raise _refused(error, "root", NEVER) from error
        check_keys(files.root)
        newest = text
    return newest


def _version(text: str, name: str) -> int:
    try:
        return msgspec.json.decode(text, type=_AnyFile).signed.version
    except UNREADABLE as error:
        raise VerificationError(f"{name}.json cannot be read", str(error), "push again") from error


def _load_kept_timestamp(files: TrustedMetadataSet, kept: KeptTrust | None) -> int:
    """Load the kept timestamp, for comparison; its signing time, 0 if it is not trusted any more.

    A root that replaced the key of timestamps so ends what was signed with the old key: versions
    and times in the far future too (section 5.3.11, fast-forward attacks).
    """
    if kept is None:
        return 0
    try:
        files.update_timestamp(kept.timestamp.encode())
    except Exception:  # whatever it is, it is not trusted; the offer repairs it
        return 0
    return kept.signed_at


def _load_timestamp(
    files: TrustedMetadataSet, kept: KeptTrust | None, offered: Metadata, signed_at: int
) -> tuple[str, int]:
    """Load the offered timestamp unless the kept one is of its version; its text, signing time."""
    from tuf.api.exceptions import EqualVersionNumberError  # noqa: PLC0415  loaded by now

    try:
        loaded = files.update_timestamp(offered.timestamp.encode())
    except EqualVersionNumberError:
        assert kept is not None, "there is another timestamp only where one was kept"
        return kept.timestamp, signed_at
    except Exception as error:
        raise _refused(error, "timestamp", files.reference_time, _signing_time(files)) from error
    signed: Any = loaded.unrecognized_fields.get(SIGNED_AT, 0)
    if type(signed) is not int or not 0 <= signed <= loaded.expires.timestamp():
        raise VerificationError(
            "timestamp.json names an impossible signing time",
            f"{signed!r} is not between 1970 and its expiry",
            "check the clock of the machine that signs, then push again",
        )
    return offered.timestamp, max(signed, signed_at)


def _load(files: TrustedMetadataSet, name: str, kept: str, offered: str) -> str:
    """Load snapshot or targets: the kept file where it is the wanted one; the text that counts."""
    try:
        if name == "snapshot":
            files.update_snapshot(kept.encode(), trusted=True)
        else:
            files.update_targets(kept.encode())
    except Exception:  # noqa: S110  it is older, or damaged: the offered one counts
        pass
    else:
        return kept
    try:
        if name == "snapshot":
            files.update_snapshot(offered.encode())
        else:
            files.update_targets(offered.encode())
    except Exception as error:
        raise _refused(error, name, files.reference_time, _signing_time(files)) from error
    return offered


def _warnings(files: TrustedMetadataSet, now: datetime) -> list[str]:
    expiries = {name: files[name].expires for name in LIFETIMES}
    return warnings(expiries, now)


def warnings(expiries: Mapping[str, datetime], now: datetime) -> list[str]:
    """Say which files are past half of their life, and which have expired.

    Args:
        expiries: by the name of the file, a key of `LIFETIMES`.
        now: the device's time.
    """
    said = []
    for name, expires in expiries.items():
        if expires <= now:
            said.append(
                f"{name}.json expired on {expires:%Y-%m-%d}: nothing new is taken, what runs goes "
                f"on; {RENEWED_BY[name]}"
            )
        elif expires - now < LIFETIMES[name] / 2:
            said.append(
                f"{name}.json is past half of its life, it expires on {expires:%Y-%m-%d}; "
                f"{RENEWED_BY[name]}"
            )
    return said


def _signing_time(files: TrustedMetadataSet) -> int:
    """When the newest timestamp was signed that these files have verified; 0 without one."""
    try:
        signed: Any = files.timestamp.unrecognized_fields.get(SIGNED_AT, 0)
    except KeyError:
        return 0
    return signed if type(signed) is int and 0 <= signed <= _LAST.timestamp() else 0


def _expired(name: str, now: datetime, signed_at: int) -> VerificationError:
    """A push signs the timestamp anew: one that is older than its life tells of a wrong clock."""
    signed = datetime.fromtimestamp(signed_at, UTC)
    told = f"; what was pushed was signed on {signed:%Y-%m-%d}" if signed_at else ""
    step = f"{RENEWED_BY[name]}; if the time is wrong, set the device's clock"
    if signed_at and now - signed > LIFETIMES["timestamp"]:
        step = (
            f"is it {now:%Y} there? If not, set the device's clock (`timedatectl set-ntp true`, or "
            f"`date -u -s` with the time) and push again; if it is, {RENEWED_BY[name]}"
        )
    return VerificationError(
        f"{name}.json has expired, so this device takes nothing new; what runs goes on",
        f"the device's time is {now:%Y-%m-%d %H:%M} UTC, the later one of its clock and of the "
        f"last signature that it saw{told}",
        step,
    )


def _refused(error: Exception, name: str, now: datetime, signed_at: int = 0) -> VerificationError:
    """Say in our words what the rules of TUF found."""
    from tuf.api import exceptions  # noqa: PLC0415  loaded by now

    text = str(error) or type(error).__name__
    match error:
        case exceptions.ExpiredMetadataError():
            # the file that was read may be refused for the expiry of the one before it
            expired = next((role for role in LIFETIMES if role in text), name)
            return _expired(expired, now, signed_at)
        case exceptions.UnsignedMetadataError():
            return VerificationError(
                f"{name}.json is not signed by enough keys that this device trusts",
                text,
                "sign it with this project's keys; a device of another project keeps to its keys",
            )
        case exceptions.BadVersionNumberError():
            return VerificationError(
                f"{name}.json has not the version that it must have here",
                f"{text}; the device does not go back to older metadata",
                "push from the project whose metadata is newest",
            )
        case exceptions.LengthOrHashMismatchError():
            return VerificationError(
                f"{name}.json does not belong to the other files",
                f"{text}; files of different pushes were mixed",
                "push again",
            )
        case _:
            return VerificationError(f"{name}.json is refused", text, "push again")

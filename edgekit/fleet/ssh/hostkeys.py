"""Which host key is trusted: known_hosts as sshd(8) describes it, judged as ssh(1) does. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

CERT = "-cert-v01@openssh.com"
_RSA = ("rsa-sha2-512", "rsa-sha2-256")


class HostMark(Enum):
    """What a line of known_hosts says of its key."""

    KEY = ""
    AUTHORITY = "@cert-authority"
    REVOKED = "@revoked"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that known_hosts has for a host; `where` is FILE:LINE."""

    mark: HostMark
    kind: str  # as ssh-ed25519
    blob: bytes  # in wire form
    where: str


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The keys for one name, and the places of `@revoked` lines for it that cannot be read."""

    keys: tuple[KnownKey, ...] = ()
    damaged_revocations: tuple[str, ...] = ()

    def __add__(self, other: KnownKeys) -> KnownKeys:
        """The keys of two files."""
        return KnownKeys(
            self.keys + other.keys, self.damaged_revocations + other.damaged_revocations
        )

    def kinds(self) -> set[str]:
        """The types of the keys that are no authorities."""
        return {key.kind for key in self.keys if key.mark is HostMark.KEY}


class HostStatus(Enum):
    """How a presented key stands to the known ones."""

    OK = "ok"
    NEW = "new"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """What a server shows: its key; of a certificate also the key that signed it."""

    kind: str
    blob: bytes  # of the plain key, in wire form
    authority: bytes = b""  # empty: no certificate


def fingerprint(blob: bytes) -> str:
    """A key's fingerprint, as `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def parse_key(text: str) -> tuple[str, bytes] | None:
    """Read `TYPE BASE64 [comment]`; None where it is no key."""
    kind, _, rest = text.strip(" \t\r\n").partition(" ")
    if "\t" in kind:
        kind, _, rest = text.strip(" \t\r\n").partition("\t")
    encoded = re.split(r"[ \t\r]", rest.lstrip(" \t"), maxsplit=1)[0]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    name = kind.encode()
    if not name or not blob.startswith(len(name).to_bytes(4, "big") + name):
        return None
    return (kind, blob) if _whole(blob) else None


def _whole(blob: bytes) -> bool:
    """Whether the wire form ends where its last field ends, and has a field besides the type."""
    at = fields = 0
    while at < len(blob):
        length = int.from_bytes(blob[at : at + 4], "big")
        at += 4 + length
        fields += 1
    # 32 is the least that any key has: ed25519's
    return at == len(blob) and fields >= 2 and len(blob) > 4 + 32


def matches(name: str, names: str) -> bool:
    """Whether a known_hosts field of names, or its hash, stands for a host or `[host]:port`."""
    if names.startswith("|"):
        return _hash_matches(name, names)
    found = False
    for pattern in names.lower().split(","):
        negated = pattern.startswith("!")
        if _glob(pattern.removeprefix("!"), name.lower()):
            if negated:
                return False
            found = True
    return found


def _hash_matches(name: str, names: str) -> bool:
    parts = names.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, told = (base64.b64decode(part, validate=True) for part in parts[2:])
    except binascii.Error:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), told)


def _glob(pattern: str, name: str) -> bool:
    """Match `*` and `?` alone: brackets stand for themselves, as in `[host]:port`."""
    if "*" not in pattern and "?" not in pattern:  # most lines of a large file
        return pattern == name
    parts = ({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def read_known_hosts(text: str, file: str, name: str) -> KnownKeys:
    """The keys that a file has for a name; a damaged line is skipped, as OpenSSH does.

    A damaged `@revoked` line is reported: what it forbids cannot be known.
    """
    keys: list[KnownKey] = []
    damaged: list[str] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line, where = raw.strip(" \t\r"), f"{file}:{number}"
        if not line or line.startswith("#"):
            continue
        mark, names, rest = _split(line)
        if mark is None or not matches(name, names):
            continue
        key = parse_key(rest)
        if key is not None:
            keys.append(KnownKey(mark, *key, where))
        elif mark is HostMark.REVOKED:
            damaged.append(where)
    return KnownKeys(tuple(keys), tuple(damaged))


def _split(line: str) -> tuple[HostMark | None, str, str]:
    """Marker, names and the rest; None for a marker that OpenSSH does not know.

    OpenSSH ends a marker at the first blank of the line, so one before a tab is unknown to it.
    edgekit takes a revocation in either form.
    """
    mark = HostMark.KEY
    if line.startswith("@"):
        end = line.find(" ") if " " in line else line.find("\t")
        marked = {mark.value: mark for mark in HostMark}.get(line[:end])
        if marked is None and re.match(r"@revoked\s", line):
            marked = HostMark.REVOKED
        line = _word(line)[1]
        if marked is None or line.startswith("@"):  # only one marker is allowed
            return None, "", ""
        mark = marked
    names, rest = _word(line)
    return mark, names, rest


def _word(text: str) -> tuple[str, str]:
    parts = re.split(r"[ \t]+", text, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def status(presented: PresentedKey, known: KnownKeys) -> HostStatus:
    """How a key stands to the known ones; a certificate is looked up by its authority."""
    wanted = HostMark.AUTHORITY if presented.authority else HostMark.KEY
    shown = presented.authority or presented.blob
    held = [key for key in known.keys if key.mark is wanted]
    revoked = {key.blob for key in known.keys if key.mark is HostMark.REVOKED}
    if {presented.blob, presented.authority} & revoked:
        return HostStatus.REVOKED
    if any(key.blob == shown for key in held):
        return HostStatus.OK
    return HostStatus.CHANGED if held else HostStatus.NEW


@dataclass(frozen=True, slots=True)
class HostJudgement:
    """Whether a host is trusted; where not, why not, and the known key that it does not match."""

    status: HostStatus
    other: KnownKey | None = None
    certificate_problem: str = ""


def judge(
    presented: PresentedKey,
    certificate_problem: str,
    known: KnownKeys,
    without_port: KnownKeys | None,
) -> HostJudgement:
    """Judge a host key as sshconnect.c does.

    Args:
        presented: what the server shows.
        certificate_problem: why its certificate is not valid for this host; empty if it is.
        known: the keys for the host's name, with its port unless that is 22.
        without_port: the keys for the bare name, asked where `known` has none; None: not asked.
    """
    stands = status(presented, known)
    problem = ""
    if presented.authority:
        if stands is HostStatus.REVOKED:
            return HostJudgement(stands)
        if stands is HostStatus.OK and not certificate_problem:
            return HostJudgement(stands)
        problem = {
            HostStatus.OK: certificate_problem,
            HostStatus.CHANGED: "its certificate is signed by another authority",
        }.get(stands, "its certificate is signed by an authority that known_hosts does not have")
        if stands is HostStatus.NEW and without_port is not None:
            bare = judge(presented, certificate_problem, without_port, None)
            if bare.status is HostStatus.OK:
                return bare
        presented = PresentedKey(presented.kind, presented.blob)  # its key may still be known
        stands = status(presented, known)
    if stands is HostStatus.NEW and without_port is not None:
        bare = judge(presented, "", without_port, None)
        if bare.status in (HostStatus.OK, HostStatus.REVOKED):
            return HostJudgement(bare.status, bare.other, problem)
    plain = [key for key in known.keys if key.mark is HostMark.KEY]
    return HostJudgement(stands, plain[-1] if stands is HostStatus.CHANGED else None, problem)


def host_key_order(
    allowed: Sequence[str], defaults: Sequence[str], supported: Iterable[str], known: KnownKeys
) -> list[str]:
    """The host key algorithms to offer, the best first, as OpenSSH orders them.

    Where the user did not write a list of their own, the types that known_hosts has come first.

    Args:
        allowed: HostKeyAlgorithms in effect.
        defaults: HostKeyAlgorithms without any file.
        supported: the algorithms of the SSH library.
        known: the keys for the host.
    """
    usable = [name for name in allowed if name in set(supported)]
    kinds = known.kinds()
    if not _keeps_order(allowed, defaults) or (allowed and _kind(allowed[0]) in kinds):
        return usable
    authority = any(key.mark is HostMark.AUTHORITY for key in known.keys)

    def preferred(name: str) -> bool:
        return _kind(name) in kinds or (authority and name.endswith(CERT))

    return sorted(usable, key=lambda name: not preferred(name))


def _keeps_order(allowed: Sequence[str], defaults: Sequence[str]) -> bool:
    """Whether a list is the default one, or that with `+` or `-`.

    `ssh -G` does not say which sign was used. A list of less than half of the names is taken for
    one of the user's own.
    """
    kept = [name for name in defaults if name in allowed]
    return list(allowed[: len(kept)]) == kept and 2 * len(kept) >= len(defaults)


def _kind(algorithm: str) -> str:
    """The type of the plain key behind an algorithm."""
    plain = algorithm.removesuffix(CERT)
    return "ssh-rsa" if plain in _RSA else plain

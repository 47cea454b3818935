"""Gathers what is known of a host, judges the key that it shows, and says no with a reason."""

from __future__ import annotations

import base64
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UsageError, VerificationError
from edgekit.fleet.ssh.certificate import authority_of, certificate_problem, read_certificate
from edgekit.fleet.ssh.hostkeys import (
    HostJudgement,
    HostStatus,
    KnownKeys,
    PresentedKey,
    fingerprint,
    host_key_order,
    judge,
    parse_key,
    read_known_hosts,
)
from edgekit.fleet.ssh.settings import SshSettings, stricter_than_asked

COMMAND_SECONDS = 60
_KRL = b"SSHKRL\n\0"


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A host key as the transport has it; `certificate` is its wire form, or empty."""

    kind: str
    blob: bytes  # of the plain key
    bits: int
    certificate_kind: str = ""
    certificate: bytes = b""


class UnknownHostKeyError(VerificationError):
    """A host shows a key that no file knows; nothing else is wrong with it.

    Attributes:
        settings: the settings for the destination.
        kind: the key's type, as ssh-ed25519.
        blob: the key in wire form.
    """

    def __init__(self, settings: SshSettings, shown: ShownKey, why: str, next_step: str) -> None:
        what = f"the host key of {settings.known_as} is unknown: known_hosts does not have it"
        super().__init__(what, why, next_step)
        self.settings = settings
        self.kind = shown.kind
        self.blob = shown.blob


def offered_algorithms(settings: SshSettings, supported: tuple[str, ...]) -> list[str]:
    """The host key algorithms to offer for a destination, the best first.

    Raises:
        UsageError: the configuration allows none that edgekit has.
        VerificationError: KnownHostsCommand failed.
    """
    allowed = settings.names("hostkeyalgorithms") or list(supported)
    defaults = [
        name
        for value in settings.defaults.get("hostkeyalgorithms", ())
        for name in value.split(",")
    ] or list(supported)
    known = _known(settings, settings.known_as, "ORDER", None)
    order = host_key_order(allowed, defaults, supported, known)
    if not order:
        raise UsageError(
            f"{settings.named}: HostKeyAlgorithms allows no type of host key that edgekit has",
            f"allowed is {', '.join(allowed)}; edgekit has {', '.join(supported)}",
            "allow one of these for this host in the ssh configuration",
        )
    return order


def check_host_key(settings: SshSettings, shown: ShownKey, address: str) -> None:
    """Accept the key that a host shows, or refuse it.

    Args:
        settings: the settings for the destination.
        shown: the key.
        address: the address of the peer, for CheckHostIP; empty: not to be checked.

    Raises:
        VerificationError: the key is unknown, has changed, is revoked, or cannot be judged.
    """
    presented, problem = _presented(settings, shown)
    _check_revoked_file(settings, shown, presented)
    _check_size(settings, shown)
    known = _known(settings, settings.known_as, "HOSTNAME", shown)
    bare = settings.bare_name
    judgement = judge(presented, problem, known, _known(settings, bare, "", None) if bare else None)
    if judgement.status is not HostStatus.OK:
        raise _refusal(settings, shown, judgement)
    if address and settings.yes("checkhostip") and not presented.authority:
        place = address if settings.port == 22 else f"[{address}]:{settings.port}"
        by_address = judge(presented, "", _known(settings, place, "ADDRESS", shown), None)
        if by_address.status in (HostStatus.CHANGED, HostStatus.REVOKED):
            raise VerificationError(
                f"the host key of {settings.named} is not the one known for its address {address}",
                f"CheckHostIP is set, and known_hosts has another key for {place}",
                f"if the address moved, remove its old key with `ssh-keygen -R '{place}'`",
            )


def _presented(settings: SshSettings, shown: ShownKey) -> tuple[PresentedKey, str]:
    """The key to judge, and what is wrong with its certificate."""
    if not shown.certificate:
        return PresentedKey(shown.kind, shown.blob), ""
    presented = PresentedKey(shown.kind, shown.blob, authority_of(shown.certificate))
    certificate = read_certificate(shown.certificate_kind, shown.certificate)
    if certificate is None:
        return presented, "edgekit cannot check its certificate or the key that signed it"
    problem = certificate_problem(
        certificate,
        settings.one("hostkeyalias") or settings.host,
        time.time(),
        settings.names("casignaturealgorithms"),
        shown.certificate,
    )
    return presented, problem


def _known(settings: SshSettings, name: str, invocation: str, shown: ShownKey | None) -> KnownKeys:
    """What the files, and KnownHostsCommand for an invocation, know of a name."""
    known = KnownKeys()
    for key in ("userknownhostsfile", "globalknownhostsfile"):
        for file in settings.files(key, lambda path: Path(path).is_file()):
            known += read_known_hosts(_text(file), file, name)
    command = settings.one("knownhostscommand")
    if command and invocation:
        text = _command(settings, command, name, invocation, shown)
        known += read_known_hosts(text, "KnownHostsCommand", name)
    if known.damaged_revocations:
        raise VerificationError(
            f"a revoked host key for {settings.named} cannot be read",
            f"{', '.join(known.damaged_revocations)} says @revoked, but its key is damaged",
            "correct or remove this line; no host can be trusted on its word until then",
        )
    return known


def _text(file: str) -> str:
    """A file's text; a missing one has none, any bytes are taken."""
    try:
        return Path(file).read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""
    except OSError as error:
        raise VerificationError(
            f"{file} cannot be read",
            f"{error.strerror}; it may revoke a host key",
            "make it readable, or take it out of the ssh configuration",
        ) from error


def _command(
    settings: SshSettings, command: str, name: str, invocation: str, shown: ShownKey | None
) -> str:
    blob = shown.certificate or shown.blob if shown else b""
    kind = shown.certificate_kind or shown.kind if shown else "NONE"
    tokens = {
        "H": name,
        "I": invocation,
        "t": kind,
        "f": fingerprint(shown.blob) if shown else "NONE",
        "K": base64.b64encode(blob).decode() if shown else "NONE",
    }
    try:
        program, *rest = shlex.split(command)
        if not program.startswith("/"):
            raise ValueError(f"{program} is no whole path")
        argv = [program, *(settings.expand("KnownHostsCommand", word, tokens) for word in rest)]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
            check=True,
        )
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        raise VerificationError(
            f"the host key of {settings.named} cannot be checked: KnownHostsCommand failed",
            str(error),
            f"run it by hand: {command}",
        ) from error
    return done.stdout.decode("utf-8", "surrogateescape")


def _check_revoked_file(settings: SshSettings, shown: ShownKey, presented: PresentedKey) -> None:
    """Look the key and its authority up in RevokedHostKeys: KRLs, or lists of keys."""
    for file in settings.files("revokedhostkeys", lambda path: Path(path).is_file()):
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise _cannot_tell(settings, file, str(error.strerror)) from error
        if data.startswith(_KRL):
            revoked = _in_krl(settings, file, shown)
        else:
            revoked = _in_list(settings, file, data.decode("utf-8", "surrogateescape"), presented)
        if revoked:
            raise VerificationError(
                f"the host key of {settings.named} is revoked",
                f"{file} (RevokedHostKeys) has {shown.kind} {fingerprint(shown.blob)}",
                "do not connect; give the device a new host key",
            )


def _in_list(settings: SshSettings, file: str, text: str, presented: PresentedKey) -> bool:
    found = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = parse_key(line)
        if key is None:
            raise _cannot_tell(settings, f"{file}:{number}", "this line is no key")
        found |= key[1] in (presented.blob, presented.authority)
    return found


def _in_krl(settings: SshSettings, file: str, shown: ShownKey) -> bool:
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        raise _cannot_tell(settings, file, "it is a KRL, and ssh-keygen is not installed")
    kind = shown.certificate_kind or shown.kind
    line = f"{kind} {base64.b64encode(shown.certificate or shown.blob).decode()}\n"
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as key:
        key.write(line)
        key.flush()
        done = subprocess.run(
            [keygen, "-Q", "-f", file, key.name], capture_output=True, check=False, timeout=60
        )
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if done.returncode not in (0, 1) or (done.returncode == 1 and "REVOKED" not in said):
        raise _cannot_tell(settings, file, said)
    return done.returncode == 1


def _cannot_tell(settings: SshSettings, file: str, why: str) -> VerificationError:
    return VerificationError(
        f"{settings.named}: it cannot be told whether the host key is revoked",
        f"{file} (RevokedHostKeys): {why}",
        "correct the file, or RevokedHostKeys in the ssh configuration",
    )


def _check_size(settings: SshSettings, shown: ShownKey) -> None:
    least = int(settings.one("requiredrsasize", "1024"))
    if shown.kind == "ssh-rsa" and shown.bits < least:
        raise VerificationError(
            f"the host key of {settings.named} is too short",
            f"it has {shown.bits} bits, and RequiredRSASize is {least}",
            "give the device a longer host key",
        )


def _refusal(settings: SshSettings, shown: ShownKey, judgement: HostJudgement) -> VerificationError:
    """What to say of a key that is not trusted."""
    name, key = settings.known_as, f"{shown.kind} {fingerprint(shown.blob)}"
    more = [judgement.certificate_problem, stricter_than_asked(settings)]
    why = "; ".join([f"it presents {key}", *filter(None, more)])
    if judgement.status is HostStatus.REVOKED:
        return VerificationError(
            f"the host key of {name} is revoked",
            f"known_hosts says @revoked for {key}",
            "do not connect; give the device a new host key",
        )
    if judgement.other is not None:
        other = judgement.other
        return VerificationError(
            f"the host key of {name} has changed: it is not the one in known_hosts",
            f"{why}; known is {other.kind} {fingerprint(other.blob)} ({other.where})",
            "an attacker may be in between; if the device was set up anew, remove the old key "
            f"with `ssh-keygen -R '{name}'` and log in once",
        )
    return UnknownHostKeyError(
        settings,
        shown,
        why,
        f"compare this fingerprint with the device's, then log in once with `{_login(settings)}` "
        "to record it",
    )


def _login(settings: SshSettings) -> str:
    if settings.one("hostkeyalias"):
        return f"ssh {settings.named}"
    port = f"-p {settings.port} " if settings.port != 22 else ""
    return f"ssh {port}{settings.host}"

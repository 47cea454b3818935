"""Turns what the probes saw into diagnoses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from edgekit.builder.tools.engine import Engine
from edgekit.cli.doctor.diagnosis import Diagnosis
from edgekit.errors import EdgekitError

LEAST_FREE_BYTES = 1_000_000_000  # below it hardly any command that writes ends
GOOD_FREE_BYTES = 5_000_000_000  # the build toolchain alone takes 2 GB
IDS = "100000-165535"


class SeenEngine(msgspec.Struct, frozen=True):
    """What builds a model on this machine.

    Attributes:
        engine: the container engine that answers; None without one.
        refused: why there is none.
        subordinate_ids: whether /etc/subuid and /etc/subgid name this user.
        uidmap: whether newuidmap and newgidmap are installed.
        user: its name.
        python: why no environment of the locked tools can be made here; empty if one can.
    """

    engine: Engine | None
    refused: EdgekitError | None
    subordinate_ids: bool
    uidmap: bool
    user: str
    python: EdgekitError | None


def engine(seen: SeenEngine) -> Diagnosis:
    """Whether `edgekit build` has tools here, and as whom they run."""
    found = seen.engine
    told = seen.refused.why if seen.refused else ""
    if (found is not None and found.rootless and not seen.uidmap) or "newuidmap" in told:
        return Diagnosis(
            "engine",
            "wrong",
            "podman runs as you, and newuidmap is not installed",
            told or "a container of yours would have one user id alone",
            "sudo apt install uidmap && podman system migrate",
        )
    if found is not None and found.rootless and not seen.subordinate_ids:
        return Diagnosis(
            "engine",
            "wrong",
            f"{found.name} runs as you, and you have no subordinate ids",
            f"/etc/subuid and /etc/subgid do not name {seen.user}, and --userns keep-id needs them",
            f"sudo usermod --add-subuids {IDS} --add-subgids {IDS} {seen.user}"
            " && podman system migrate",
        )
    if found is not None:
        how = "rootless" if found.rootless else "as root"
        return Diagnosis("engine", "ok", f"{found.name} {found.version}, {how}")
    assert seen.refused is not None, "without an engine there is a reason"
    error = seen.refused
    if "docker" in error.why and "permission denied" in error.why.lower():
        return Diagnosis(
            "engine",
            "warning",
            "docker is installed, and you may not use it",
            error.why,
            f"sudo usermod -aG docker {seen.user}, then log in anew; or build with --host",
        )
    if seen.python is None:
        return Diagnosis("engine", "warning", error.what, error.why, error.next_step)
    return Diagnosis(
        "engine",
        "warning",
        f"{error.what}, and --host has no tools either",
        f"{error.why}; {seen.python.what}",
        f"install podman (apt install podman), or: {seen.python.next_step}",
    )


def disk(place: str, free_bytes: int) -> Diagnosis:
    """Whether the file system of `place` has room."""
    what = f"{free_bytes / 1e9:.1f} GB free at {place}"
    if free_bytes >= GOOD_FREE_BYTES:
        return Diagnosis("disk", "ok", what)
    few = free_bytes < LEAST_FREE_BYTES
    why = "hardly anything can be written" if few else "a build takes 5 GB and more"
    step = f"see what takes it: du -xh -d 2 {place} | sort -h | tail"
    return Diagnosis("disk", "wrong" if few else "warning", what, why, step)


def port(number: int, holder: str | None) -> Diagnosis:
    """Whether the gateway's own port is free; `holder` names who has it, None: nobody."""
    if holder is None:
        return Diagnosis("gateway", "ok", f"port {number} is free for `edgekit gateway`")
    return Diagnosis(
        "gateway",
        "note",
        f"port {number} is taken" + (f" by {holder}" if holder else ""),
        "`edgekit gateway` listens there unless it is told another one",
        f"edgekit gateway --port {number + 1}, if another program has it",
    )


def clock(synchronised: bool | None, now: datetime, earliest: datetime) -> Diagnosis:
    """Whether this machine's clock can be right; `synchronised` is None where nobody says it."""
    if now < earliest:
        return Diagnosis(
            "clock",
            "wrong",
            f"this machine's clock says {now:%Y-%m-%d}",
            f"edgekit is from after {earliest:%Y-%m-%d}; signatures would be refused",
            "sudo timedatectl set-ntp true, or: sudo date -s 'YYYY-MM-DD hh:mm:ss'",
        )
    told = f"{now:%Y-%m-%d %H:%M} UTC"
    if synchronised is False:
        return Diagnosis(
            "clock",
            "warning",
            f"{told}, and nothing keeps the clock right",
            "metadata and deadlines are judged by it",
            "sudo timedatectl set-ntp true",
        )
    return Diagnosis("clock", "ok", told + (", synchronised" if synchronised else ""))


class SeenTrust(msgspec.Struct, frozen=True):
    """The metadata of a project: when each file expires, and which roles have a key here."""

    expires: dict[str, datetime]
    roles_here: frozenset[str]


_SIGNED_ANEW = {
    "root": ("root", "edgekit key rotate root"),
    "targets": ("targets", "edgekit sign"),
}


def metadata(seen: SeenTrust, now: datetime) -> list[Diagnosis]:
    """Which of the metadata is expired."""
    found = []
    for name, at in seen.expires.items():
        if now < at:
            continue
        what = f"{name}.json expired on {at:%Y-%m-%d}"
        if name not in _SIGNED_ANEW:  # the online role, which every push signs anew
            if "online" not in seen.roles_here:
                step = "push from the machine that has the key online"
                found.append(Diagnosis("keys", "wrong", what, "devices refuse it", step))
            continue
        role, step = _SIGNED_ANEW[name]
        if role not in seen.roles_here:
            step += " --key FILE"
        found.append(Diagnosis("keys", "wrong", what, "devices refuse what it signs", step))
    if not found:
        first = min(seen.expires, key=lambda name: seen.expires[name])
        here = ", ".join(role for role in ("root", "targets", "online") if role in seen.roles_here)
        at = seen.expires[first]
        said = f"keys here: {here or 'none'}; the first to expire is {first}.json, {at:%Y-%m-%d}"
        found.append(Diagnosis("keys", "ok", said))
    return found


class SeenSsh(msgspec.Struct, frozen=True):
    """What there is to log in to devices with.

    Attributes:
        client: whether OpenSSH's programs are installed.
        agent_keys: keys that an agent holds; None: no agent answers.
        identities: private keys in ~/.ssh.
        hosts: devices of the fleet at `ssh:`.
    """

    client: bool
    agent_keys: int | None
    identities: tuple[str, ...]
    hosts: int


def ssh(seen: SeenSsh) -> list[Diagnosis]:
    """Whether a push can log in anywhere."""
    if not seen.hosts:
        return [Diagnosis("ssh", "note", "fleet.toml has no device at ssh:")]
    if not seen.client:
        return [
            Diagnosis(
                "ssh",
                "wrong",
                "OpenSSH's programs are not installed",
                "a host key is met by `ssh` once, and keys are made by `ssh-keygen`",
                "apt install openssh-client",
            )
        ]
    if not seen.agent_keys and not seen.identities:
        return [
            Diagnosis(
                "ssh",
                "wrong",
                f"no key to log in with, and fleet.toml has {seen.hosts} devices at ssh:",
                "no agent has a key, and ~/.ssh has no private key",
                "ssh-keygen -t ed25519, then ssh-copy-id USER@DEVICE for each",
            )
        ]
    agent = "no agent" if seen.agent_keys is None else f"an agent with {seen.agent_keys} keys"
    return [Diagnosis("ssh", "ok", f"{agent}, keys in ~/.ssh: {', '.join(seen.identities) or '-'}")]


def extras(installed: dict[str, bool], gateway_used: bool) -> list[Diagnosis]:
    """Which optional packages are there; `gateway_used`: the project has API keys for it."""
    found = []
    for extra, there in installed.items():
        if there:
            found.append(Diagnosis("extras", "ok", f"edgekit[{extra}] is installed"))
            continue
        needed = extra == "gateway" and gateway_used
        found.append(
            Diagnosis(
                "extras",
                "wrong" if needed else "note",
                f"edgekit[{extra}] is not installed",
                _USE[extra] + (", and this project has API keys for it" if needed else ""),
                f"pip install 'edgekit[{extra}]'",
            )
        )
    return found


_USE = {"gateway": "`edgekit gateway` needs it", "pictures": "`edgekit ask --image` needs it"}


def python(version: Sequence[int], bits: int, system: str, machine: str) -> Diagnosis:
    """Whether edgekit is at home on this interpreter."""
    what = f"Python {version[0]}.{version[1]}.{version[2]} on {system} {machine}"
    if bits < 64:
        return Diagnosis(
            "python",
            "wrong",
            f"{what}, with {bits} bits",
            "the runtime and the tokenizers are made for 64 bits alone",
            "install a 64-bit system with its python3",
        )
    return Diagnosis("python", "ok", what)


def utc(at: datetime) -> datetime:
    """TUF's times are UTC, with or without saying so."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)

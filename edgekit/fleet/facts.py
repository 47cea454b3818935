"""The facts that a device reports about itself, parsed and typed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.config import parse_known_agent_config
from edgekit.core.digest import Digest, decode_hook
from edgekit.core.manifest import Manifest, oci_platform, parse_manifest
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, VerificationError

# of a device's own agent, too
PROBE = Path(__file__).parents[1] / "agent" / "release" / "door" / "probe.py"
RECEIVE = Path(__file__).with_name("receive.py")


class DeviceFacts(msgspec.Struct, frozen=True):
    """The output of `probe.py`; sizes in bytes.

    Attributes:
        ram_bytes: the memory that the agent may fill, which a control group can limit.
        current: the release that the link `current` names; None before the first activation.
        bootstrap: the folder that the link `bootstrap` names; empty before a first contact.
        manifest: the text of `current`'s manifest; empty without one.
        config: the text of agent.toml; empty without one.
        problem: why ROOT can be no folder; empty if it can.
        noexec: the mount point of ROOT's file system if it is mounted noexec; else empty.
        free_bytes: free bytes of ROOT's file system; None is not known.
        supervisor: what starts the agent, as `ROOT/etc/supervisor` says; empty without the file.
        enrolled: whether `edgekit enroll` has been here.
        home: of the account.
        door: whether the account only reaches the door of a device that owns itself.
        disk_bytes: all bytes of that file system; 0 is not known.
        cpu_flags: what every CPU of the device can do, as /proc/cpuinfo spells it; empty if it does
            not say.
        clock: Unix seconds of the device; None: its own probe is of before this fact.
        temperature: degrees Celsius of its hottest sensor; None: it says none.
        system: the name of its operating system; empty if it does not say.
        hardware: the text of etc/hardware, which names further hardware; empty without one.
        places: ROOT as its file system knows it, and each folder above it; empty: it does not say.
    """

    root: str
    machine: str
    python: str
    executable: str
    glibc: str
    ram_bytes: int
    writable: bool
    current: Digest | None
    bootstrap: str
    manifest: str = ""
    config: str = ""
    problem: str = ""
    noexec: str = ""
    free_bytes: int | None = None
    supervisor: str = ""
    enrolled: bool = False
    home: str = ""
    door: bool = False
    disk_bytes: int = 0
    cpu_flags: str = ""
    clock: float | None = None
    temperature: float | None = None
    system: str = ""
    hardware: str = ""
    places: list[str] = []

    @property
    def platform(self) -> str:
        """The OCI platform, e.g. `linux/arm64`."""
        return oci_platform(self.machine)

    @property
    def current_manifest(self) -> Manifest | None:
        """The manifest of `current`; None when it is missing, damaged or of another kind."""
        data = self.manifest.encode()
        if self.current is None or Digest.of(data) != self.current:
            return None
        try:
            return parse_manifest(data)
        except VerificationError:
            return None


def configured_name(facts: DeviceFacts) -> str:
    """The device that a ROOT's agent.toml names; empty where it has none that can be read."""
    try:
        return parse_known_agent_config(facts.config.encode()).device
    except EdgekitError:
        return ""


def clock_offset(clock: float, asked: float, answered: float) -> tuple[float, float]:
    """By how much a device's clock is ahead of ours, and how far that can be wrong; in seconds.

    The device read its clock between the two of ours: in the middle, give or take half of the round
    trip (as in NTP, RFC 5905 section 8).

    Args:
        clock: of the device, in Unix seconds.
        asked, answered: ours, when the question went out and when the answer was there.
    """
    return clock - (asked + answered) / 2, (answered - asked) / 2


def parse_facts(output: bytes) -> DeviceFacts:
    """Decode the output of the probe.

    Raises:
        EdgekitError: the output is not that of the probe.
        VerificationError: the link `current` names no digest.
    """
    try:
        return msgspec.json.decode(output, type=DeviceFacts, dec_hook=decode_hook)
    except UNREADABLE as error:
        raise EdgekitError(
            "the device's facts cannot be read",
            f"{error}; it printed {output[:200]!r}",
            "log in and look at what its python3 is: it ran another program, or printed more",
        ) from error

"""`push.*_ratio`, `push.ten_*`: what edgekit's transfer is worth beside other programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from benchmarks.figure import figure
from benchmarks.rig import Rig
from benchmarks.transfer.devices import Devices, Sending, devices

FILE_BYTES = 512 << 20
FAR_BYTES = 512 << 20
SESSION_BYTES = 128 << 20
TEN_BYTES = 512 << 20
RTT_MS = 80.0
TEN = 10
HERE = "over loopback into memory, by turns, with the connection"
HASHED = "edgekit hashes what it stored, too"


@dataclass(frozen=True)
class Turn:
    """Every way once, one after the other."""

    edgekit: Sending
    rsync: Sending
    scp: Sending
    fabric: Sending | None = None


@cache
def near(rounds: int) -> list[Turn]:
    """One file to one device, over loopback."""

    def turn(to: Devices) -> Turn:
        source = to.file(FILE_BYTES)
        return Turn(to.verified(source), to.rsync(source), to.scp(source), to.fabric(source))

    with devices() as to:
        return [turn(to) for _ in range(rounds)]


@cache
def far(rounds: int) -> list[tuple[Sending, Sending]]:
    """One file to one device, over a way of `RTT_MS`: edgekit and scp."""
    with devices(RTT_MS) as to:
        source = to.file(FAR_BYTES)
        return [(to.pull(source), to.scp(source)) for _ in range(rounds)]


@cache
def ten(rounds: int) -> list[tuple[Sending, Sending]]:
    """One file to ten devices at once: edgekit and ten scp."""
    with devices() as to:
        source = to.file(TEN_BYTES)
        return [(to.pull(source, TEN), to.scp(source, TEN)) for _ in range(rounds)]


@figure(
    "push.rsync_ratio",
    what="How many times as fast as rsync over ssh edgekit brings a file to a device",
    unit="ratio",
    against=f"`rsync -W -e ssh`, {FILE_BYTES >> 20} MiB {HERE}; {HASHED}",
)
def rsync_ratio(rig: Rig) -> list[float]:
    """Seconds of rsync by seconds of edgekit, of one turn."""
    return [turn.rsync.seconds / turn.edgekit.seconds for turn in near(rig.rounds)]


@figure(
    "push.rsync_cpu_ratio",
    what="CPU seconds that edgekit takes for it, for each of rsync's; both ends together",
    unit="ratio",
    against="the same turns; ssh and sshd are counted in, Python's start is not",
)
def rsync_cpu_ratio(rig: Rig) -> list[float]:
    """CPU seconds of edgekit by those of rsync."""

    def both(one: Sending) -> float:
        return one.cpu + one.device_cpu

    return [both(turn.edgekit) / both(turn.rsync) for turn in near(rig.rounds)]


@figure(
    "push.scp_ratio",
    what="The same beside scp",
    unit="ratio",
    against="`scp`, the same turns",
)
def scp_ratio(rig: Rig) -> list[float]:
    """Seconds of scp by seconds of edgekit."""
    return [turn.scp.seconds / turn.edgekit.seconds for turn in near(rig.rounds)]


@figure(
    "push.fabric_ratio",
    what="The same beside the `put` of fabric, the library that edgekit connects with",
    unit="ratio",
    against="`Connection.put`, the same turns",
)
def fabric_ratio(rig: Rig) -> list[float]:
    """Seconds of fabric's `put` by seconds of edgekit."""
    return [turn.fabric.seconds / turn.edgekit.seconds for turn in near(rig.rounds) if turn.fabric]


@figure(
    "push.mb_per_second",
    what="How fast edgekit brings a file to a device",
    unit="MB/s",
    against="the same turns",
)
def mb_per_second(rig: Rig) -> list[float]:
    """Million bytes per second."""
    return [FILE_BYTES / 1e6 / turn.edgekit.seconds for turn in near(rig.rounds)]


@figure(
    "push.rtt80_scp_ratio",
    what=f"How many times as fast as scp, where a round trip takes {RTT_MS:g} ms",
    unit="ratio",
    against=f"`scp`, {FAR_BYTES >> 20} MiB through a proxy of ours that delays, by turns",
)
def rtt80_scp_ratio(rig: Rig) -> list[float]:
    """Seconds of scp by seconds of edgekit."""
    return [scp.seconds / ours.seconds for ours, scp in far(rig.rounds)]


@figure(
    "push.rtt80_session_ratio",
    what="How many times as fast as fabric's `put`, pipelined SFTP, where sshd forwards nothing",
    unit="ratio",
    against=f"`Connection.put`, {SESSION_BYTES >> 20} MiB, round trips of {RTT_MS:g} ms, by turns",
)
def rtt80_session_ratio(rig: Rig) -> list[float]:
    """Seconds of fabric's `put` by seconds of edgekit's session."""
    with devices(RTT_MS) as to:
        source = to.file(SESSION_BYTES)
        turns = [(to.session(source), to.fabric(source)) for _ in range(rig.rounds)]
    return [put.seconds / ours.seconds for ours, put in turns]


@figure(
    "push.ten_scp_ratio",
    what="How many times as fast as ten scp at once edgekit serves ten devices",
    unit="ratio",
    against=f"`scp`, {TEN_BYTES >> 20} MiB to each {HERE}",
)
def ten_scp_ratio(rig: Rig) -> list[float]:
    """Seconds of the ten scp by seconds of edgekit, until the last device has all."""
    return [scp.seconds / ours.seconds for ours, scp in ten(rig.rounds)]


@figure(
    "push.ten_rss_mb",
    what="Largest resident memory of the controller that serves ten devices at once",
    unit="MB",
    against="the same turns",
)
def ten_rss_mb(rig: Rig) -> list[float]:
    """Megabytes (10^6 bytes)."""
    return [ours.rss / 1e6 for ours, _ in ten(rig.rounds)]

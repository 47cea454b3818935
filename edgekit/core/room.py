"""The disk rule: how many bytes a release needs and how many have to stay free. Pure.

Controller (`fleet.plan`) and device (`agent.release.space.room`) ask the same function, so a plan
that fits is not refused by the device for another sum.
"""

from __future__ import annotations

import msgspec

from edgekit.errors import EdgekitError

MIB = 1 << 20
SMALLEST_RESERVE = 64 * MIB
LARGEST_RESERVE = 512 * MIB
RESERVE_SHARE = 0.03  # of the disk
BACK_BYTES = 8 * MIB  # what the file `layout.RESERVE_FILE` holds for the way back
# Beside the bytes of a release: compiled modules (4 MB measured), databases, the log
SCRATCH_BYTES = 16 * MIB
TREE_SHARE = 64  # an unpacked tree takes up to 1/64 more than its tar, in whole blocks (0.7 %)


def reserve_bytes(disk_bytes: int) -> int:
    """Bytes that stay free: 3 % of the disk, at least 64 MiB and at most 512 MiB.

    Args:
        disk_bytes: size of the file system; 0 is not known and gives the least.
    """
    share = int(disk_bytes * RESERVE_SHARE)
    return min(LARGEST_RESERVE, max(SMALLEST_RESERVE, share))


class NoRoomError(EdgekitError):
    """A release does not fit on a disk."""


class DiskRoom(msgspec.Struct, frozen=True):
    """What a release needs on a disk, and what the disk has; all in bytes.

    Attributes:
        missing: to be transferred.
        unpacked: trees to be unpacked.
        free: free for this account.
        disk: size of the file system; 0 if it is not known.
        first_contact: what a first contact puts there beside that.
    """

    missing: int
    unpacked: int
    free: int
    disk: int = 0
    first_contact: int = 0

    @property
    def scratch(self) -> int:
        """What unpacking and the first start write beside the release's own bytes."""
        if not self.missing and not self.unpacked:
            return 0
        return SCRATCH_BYTES + BACK_BYTES + self.unpacked // TREE_SHARE

    @property
    def needed(self) -> int:
        """All bytes that have to be free now; a release that is there whole needs none."""
        taken = self.missing + self.unpacked + self.first_contact
        return taken + self.scratch + reserve_bytes(self.disk) if taken else 0

    @property
    def free_after(self) -> int:
        """How many bytes are free once the release is there and has started."""
        return max(0, self.free - self.missing - self.unpacked - self.first_contact - self.scratch)

    @property
    def lacking(self) -> int:
        """How many bytes are not there; 0 if the release fits."""
        return max(0, self.needed - self.free)

    def refusal(self, place: str, next_step: str, collected: int = 0) -> NoRoomError:
        """The error that says the sum, and what to do.

        Args:
            place: ROOT on the device.
            next_step: what frees bytes there.
            collected: bytes that the device has collected before it refused.
        """
        parts = [f"{self.missing:,} to transfer", f"{self.unpacked:,} to unpack"]
        if self.first_contact:
            parts.append(f"{self.first_contact:,} for the first contact")
        parts += [f"{self.scratch:,} scratch", f"{reserve_bytes(self.disk):,} that stay free"]
        after = f" after {collected:,} were collected" if collected else ""
        return NoRoomError(
            "the disk of the device is too small for this release",
            f"{self.needed:,} bytes are needed at {place} ({', '.join(parts)}), "
            f"{self.free:,} are free{after}: {self.lacking:,} are lacking",
            next_step,
        )

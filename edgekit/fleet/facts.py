"""What a device reports about itself, parsed and typed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.manifest import oci_platform
from edgekit.errors import EdgekitError

PROBE = Path(__file__).with_name("probe.py")
RECEIVE = Path(__file__).with_name("receive.py")


class Facts(msgspec.Struct, frozen=True):
    """The output of `probe.py`; sizes in bytes."""

    root: str
    machine: str
    python: str
    executable: str
    glibc: str
    ram_bytes: int
    writable: bool
    current: str
    bootstrap: str

    @property
    def platform(self) -> str:
        """The OCI platform, e.g. `linux/arm64`."""
        return oci_platform(self.machine)


def parse_facts(output: bytes) -> Facts:
    """Raises: EdgekitError when the output is not that of the probe."""
    try:
        return msgspec.json.decode(output, type=Facts)
    except msgspec.MsgspecError as error:
        raise EdgekitError(
            "the device's facts cannot be read",
            f"{error}; it printed {output[:200]!r}",
            "a login script that prints on standard output is the usual cause",
        ) from error

"""The files that an enrolment carries to a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.core import layout
from edgekit.core.config import NAME, NAME_RULE
from edgekit.errors import UsageError
from edgekit.fleet.enroll.certificates import SigningAuthority, check_pair
from edgekit.fleet.enroll.values import BROKER_FOLDER, Carried


@dataclass(frozen=True)
class BrokerFiles:
    """Broker certificates as the user names them; `{device}` in a text is the device's name."""

    ca: Path | None
    certificate: str
    key: str
    ca_key: Path | None

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise UsageError(
                "--cert and --key are given together or not at all",
                next_step="give both, or neither",
            )
        if self.ca_key and (self.certificate or not self.ca):
            raise UsageError(
                "--ca-key signs a key that the device makes",
                "it needs --ca, and no --cert and --key",
                next_step="give --ca and --ca-key, or --cert and --key",
            )

    def check(self, device: str) -> None:
        """Check the files for one device; raises UsageError."""
        certificate, key = self._paths(device) or (None, None)
        check_pair(self.ca, certificate, key)
        self.authority()

    def authority(self) -> SigningAuthority | None:
        """The CA that signs; None where none is asked for."""
        return SigningAuthority(self.ca, self.ca_key) if self.ca and self.ca_key else None

    def carried(self, device: str) -> list[Carried]:
        """The files for one device."""
        found = [(self.ca, "ca.crt")] if self.ca else []
        if pair := self._paths(device):
            found += [(pair[0], "client.crt"), (pair[1], "client.key")]
        return [Carried(BROKER_FOLDER / name, path.read_bytes()) for path, name in found]

    def _paths(self, device: str) -> tuple[Path, Path] | None:
        if not self.certificate:
            return None
        named = (self.certificate.replace("{device}", device), self.key.replace("{device}", device))
        return Path(named[0]), Path(named[1])


def trust_root(project: Path) -> list[Carried]:
    """The project's newest root of trust; one that the device has already stays."""
    roots = [path for path in (project / "trust").glob("*.root.json") if path.stem[:-5].isdecimal()]
    if not roots:
        return []
    newest = max(roots, key=lambda path: int(path.stem[:-5]))
    return [Carried(layout.TRUST / "root.json", newest.read_bytes(), keep=True)]


def hardware(names: list[str] | None) -> list[Carried]:
    """The file of the device's hardware names; none: it stays as it is.

    Raises:
        UsageError: a name cannot be one.
    """
    if not names:
        return []
    for name in names:
        if not NAME.match(name):
            raise UsageError(
                f"{name!r} cannot be a name of hardware", NAME_RULE, next_step="choose another name"
            )
    text = "".join(f"{name}\n" for name in dict.fromkeys(names))
    return [Carried(PurePosixPath(layout.HARDWARE_FILE), text.encode())]

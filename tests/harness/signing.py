"""Projects that sign small bundles, and python-tuf's own client that reads what they publish."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
)
from edgekit.signing import releases
from edgekit.signing.folder import TrustFolder
from edgekit.signing.manage import Trust
from edgekit.signing.signers import KeyFolder, Signers
from edgekit.trust.pinned import PinnedManifest, pin
from edgekit.trust.signed import target_path

NOW = datetime.now(UTC)


class Local(FetcherInterface):
    """Reads a repository from a folder, as a web server would give it."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url.removeprefix("file://"))
        if not path.is_file():
            raise DownloadHTTPError("none", 404)
        yield path.read_bytes()


class Client:
    """A client that keeps its metadata."""

    def __init__(self, trust: Trust, folder: Path, begun: bool = False) -> None:
        self._trust, self._folder = trust, folder
        folder.mkdir(parents=True, exist_ok=begun)
        self._first = (trust.folder.folder / "1.root.json").read_bytes()
        self._begun = begun

    def targets(self, release: Digest | None = None) -> object:
        """Refresh; what the metadata says of a release."""
        updater = Updater(
            str(self._folder),
            f"file://{self._trust.folder.folder}/",
            fetcher=Local(),
            bootstrap=None if self._begun else self._first,
        )
        self._begun = True
        updater.refresh()
        found = updater.get_targetinfo(target_path(release)) if release else None
        return found.custom["edgekit"] if found else None


def bundle(version: str, platforms: tuple[str, ...] = ("linux/amd64",)) -> PinnedManifest:
    digest = Digest.of(version.encode())
    layers = [Descriptor(AGENT_TYPE, digest, 1)]
    layers += [
        Descriptor(RUNTIME_TYPE, digest, 1, {PLATFORM: p, PYTHON: "3.11"}) for p in platforms
    ]
    data = encode(
        Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, Descriptor(CONFIG_TYPE, digest, 1), layers)
    )
    return pin(data, Digest.of(data))


def config(version: str) -> BundleConfig:
    return BundleConfig("tiny", version, "llama", "", 16, 1, 16, Fit(0, 0))


def trust_in(folder: Path) -> Trust:
    lock = folder / ".edgekit" / "lock"
    return Trust(TrustFolder(folder / "trust", lock), KeyFolder(folder / ".edgekit" / "keys"))


def sign(trust: Trust, version: str, **more: object) -> releases.Signing:
    pinned = bundle(version)
    signers = more.pop("signers", None) or Signers(trust.keys)
    now = more.pop("now", NOW)
    return releases.sign(trust, signers, pinned, config(version), now, **more)  # type: ignore[arg-type]  # of keywords

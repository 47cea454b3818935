"""The controller's store: an OCI image layout, `oci-layout`, `index.json` and the blobs.

Any OCI tool reads it (`skopeo inspect oci:STORE:NAME`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.digest import Digest, decode_hook, encode_hook
from edgekit.core.manifest import BUNDLE_TYPE, MANIFEST_TYPE, Descriptor
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import BlobStore, publish
from edgekit.trust.pinned import PinnedManifest, pin

REF_NAME = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MIN_PREFIX = 6


class _Entry(Descriptor, frozen=True, rename="camel", omit_defaults=True):
    artifact_type: str = ""


class _Index(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 2
    media_type: str = INDEX_TYPE
    manifests: list[_Entry] = []


class Layout(BlobStore):
    """Blobs with an index of named bundles."""

    def create(self) -> None:
        """Make an empty layout; an existing one stays as it is."""
        super().create()
        if not (self.root / "oci-layout").exists():
            publish(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        if not self._index_path.exists():
            self._write(_Index())

    @property
    def _index_path(self) -> Path:
        return self.root / "index.json"

    def _read(self) -> _Index:
        try:
            return msgspec.json.decode(
                self._index_path.read_bytes(), type=_Index, dec_hook=decode_hook
            )
        except FileNotFoundError:
            return _Index()
        except UNREADABLE as error:
            raise EdgekitError(
                f"{self._index_path} cannot be read",
                str(error),
                f"move {self.root} away, and pack the bundles again",
            ) from error

    def _write(self, index: _Index) -> None:
        publish(self._index_path, msgspec.json.encode(index, enc_hook=encode_hook))

    def name(self, reference: str, data: bytes) -> Digest:
        """Store a manifest under a name; a name that exists moves to the new bundle."""
        digest = self.put(data)
        kept = [m for m in self._read().manifests if m.annotations.get(REF_NAME) != reference]
        entry = _Entry(MANIFEST_TYPE, digest, len(data), {REF_NAME: reference}, BUNDLE_TYPE)
        self._write(_Index(manifests=[*kept, entry]))
        return digest

    def names(self) -> dict[str, Digest]:
        """The digests by name, oldest first."""
        entries = self._read().manifests
        return {m.annotations.get(REF_NAME, m.digest): m.digest for m in entries}

    def resolve(self, reference: str | None) -> PinnedManifest:
        """Find a bundle by name, by digest or by the start of a digest; None finds the newest.

        Raises:
            UsageError: no bundle matches, or several do.
        """
        names = self.names()
        if not names:
            raise UsageError(
                "there is no bundle in the project's store",
                next_step="make one: `edgekit pack MODEL_DIR --name NAME`",
            )
        if reference is None:
            found = {list(names.values())[-1]}
        elif reference in names:
            found = {names[reference]}
        else:
            start = reference.removeprefix("sha256:")
            found = {d for d in names.values() if d.hex.startswith(start)}
            found |= {d for n, d in names.items() if n.rpartition(":")[0] == reference}
            if len(start) < MIN_PREFIX:
                found = {d for n, d in names.items() if n.rpartition(":")[0] == reference}
        if len(found) != 1:
            raise UsageError(
                f"{reference!r} names {len(found) or 'no'} bundles",
                f"the store has {', '.join(names)}",
                "name one of these as NAME:VERSION",
            )
        digest = found.pop()
        return pin(self.read(digest), digest)

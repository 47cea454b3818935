"""The docs layer: documents about a bundle for users and auditors. No device fetches it.

It holds the gate's report, the licence, the provenance (plain as the build wrote it, and signed by
this project), and the bill of materials. The model folder, the other layers and the key alone
decide its bytes: a later edit of the toolchain changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.bundle.contents import Contents
from edgekit.bundle.folder import ModelFolder
from edgekit.bundle.layers import members, put_tar, runtime_packages
from edgekit.bundle.sign import read_unverified, sign_statement, verify_envelope
from edgekit.bundle.tar import plain_tar
from edgekit.core.buildinfo import PROVENANCE_NAME, RECORD_NAME, GateOutcome
from edgekit.core.chat.tools.formats import CHAT_RECORD
from edgekit.core.manifest import DOCS_TYPE, TITLE, Descriptor, Manifest
from edgekit.errors import VerificationError
from edgekit.keyfile import PublicKey, SigningKey
from edgekit.store import BlobStore

ENVELOPE = "provenance.dsse.json"


class _Resource(msgspec.Struct, frozen=True):
    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}


class _External(msgspec.Struct, frozen=True, rename="camel"):
    model: str = ""
    revision: str = ""


class _Internal(msgspec.Struct, frozen=True, rename="camel"):
    build_id: str = ""
    isolation: str = ""
    gate: GateOutcome | None = None


class _Definition(msgspec.Struct, frozen=True, rename="camel"):
    build_type: str
    external_parameters: _External
    internal_parameters: _Internal = _Internal()
    resolved_dependencies: tuple[_Resource, ...] = ()


class _Predicate(msgspec.Struct, frozen=True, rename="camel"):
    build_definition: _Definition


class Statement(msgspec.Struct, frozen=True, rename="camel"):
    """The parts of an in-toto statement (SLSA build provenance v1) that edgekit reads."""

    subject: tuple[_Resource, ...]
    predicate: _Predicate

    @property
    def files(self) -> dict[str, str]:
        """Name -> sha256 (hex) of every file that the statement covers."""
        return {item.name: item.digest.get("sha256", "") for item in self.subject}

    def packages(self, kind: str) -> tuple[str, ...]:
        """The package URLs of one type among the build's inputs."""
        dependencies = self.predicate.build_definition.resolved_dependencies
        return tuple(d.uri for d in dependencies if d.uri.startswith(f"pkg:{kind}/"))


class Provenance(msgspec.Struct, frozen=True):
    """The values of a bundle's signed statement.

    Attributes:
        signed_by: id of the key.
        verified: whether the signature holds under this project's key; False for another key,
            whose signature this project cannot check.
        build_id: the build id of the model.
        model, revision: the source of the model.
        isolation: `container` or `host`.
        gate: profile of thresholds; empty for a model that the gate did not test.
        passed: the gate's verdict.
    """

    signed_by: str
    verified: bool
    build_id: str
    model: str
    revision: str
    isolation: str
    gate: str
    passed: bool


def parse_statement(data: bytes) -> Statement:
    """Decode a statement; raises VerificationError when the bytes are none about a build."""
    try:
        return msgspec.json.decode(data, type=Statement)
    except (msgspec.MsgspecError, ValueError) as error:
        raise VerificationError("the provenance cannot be read", str(error)) from error


class OtherLayers(msgspec.Struct, frozen=True):
    """The layers of a bundle besides the docs layer."""

    model: list[Descriptor]
    agent: Descriptor
    runtimes: list[Descriptor]
    golden: list[Descriptor] = []  # one or none
    pictures: bool = False  # the runtimes decode pictures


def docs_layer(
    store: BlobStore,
    folder: ModelFolder,
    packed: OtherLayers,
    *,
    name: str,
    version: str,
    signing_key: Callable[[], SigningKey],
) -> Descriptor:
    """Put the docs layer of a bundle into the store.

    Args:
        store: receives the layer.
        folder: the model folder, already compared with its record.
        packed: the bundle's other layers.
        name, version: of the bundle.
        signing_key: loads the project's key; called only when there is a statement to sign.

    Raises:
        VerificationError: the folder's provenance belongs to another build.
    """
    # its import takes a quarter of a short command's time, and only a pack needs it
    from edgekit.bundle.sbom import SBOM_NAME, sbom  # noqa: PLC0415  see above

    # build.json stays out: it holds the build's duration, which differs every time
    kept = [file for file in folder.about if file != RECORD_NAME]
    # as bytes: a file's mode on this machine must not enter the layer
    files: list[tuple[str, bytes | Path]] = [(n, (folder.path / n).read_bytes()) for n in kept]
    statement = None
    if PROVENANCE_NAME in kept:
        data = (folder.path / PROVENANCE_NAME).read_bytes()
        statement = parse_statement(data)
        _check_same_build(folder, statement)
        files.append((ENVELOPE, sign_statement(data, signing_key())))
    bill = sbom(_contents(name, version, folder.build_id, statement, packed))
    files.append((SBOM_NAME, bill))
    return put_tar(store, plain_tar(files), DOCS_TYPE, {TITLE: "docs.tar.zst"})


def _check_same_build(folder: ModelFolder, statement: Statement) -> None:
    record = folder.record
    said = statement.predicate.build_definition.internal_parameters
    verdict = said.gate is not None and said.gate.passed is True
    if (
        record is None
        or said.build_id != record.build_id
        or statement.files != {name: file.sha256 for name, file in record.files.items()}
        or verdict != (record.gate is not None and record.gate.passed is True)
    ):
        raise VerificationError(
            f"{PROVENANCE_NAME} is not of this build",
            f"{folder.path / RECORD_NAME} has another build id, other files or another verdict",
            "build the model again",
        )


def _contents(
    name: str, version: str, build_id: str, statement: Statement | None, packed: OtherLayers
) -> Contents:
    return Contents(
        name=name,
        version=version,
        build_id=build_id,
        files={d.title: d.digest.hex for d in packed.model},
        sources=statement.packages("huggingface") if statement else (),
        agent=packed.agent.digest.hex,
        runtime=runtime_packages(pictures=packed.pictures) if packed.runtimes else (),
        tools=statement.packages("pypi") if statement else (),
    )


def read_docs(store: BlobStore, manifest: Manifest) -> dict[str, bytes]:
    """Read a bundle's docs, name -> content; empty for a bundle without docs.

    Raises:
        VerificationError: the layer is missing or corrupt.
    """
    if manifest.docs is None:
        return {}
    store.verify(manifest.docs.digest)
    return dict(members(store.path(manifest.docs.digest)))


def read_provenance(
    docs: dict[str, bytes], manifest: Manifest, key: PublicKey | None
) -> Provenance | None:
    """Read a bundle's signed statement; None for a bundle without one.

    Args:
        docs: the bundle's docs.
        manifest: the bundle's manifest.
        key: this project's key; None when the project has none.

    Raises:
        VerificationError: the signature of this project's key does not hold, or the statement
            covers other model files than the bundle's.
    """
    if ENVELOPE not in docs:
        return None
    signers, payload = read_unverified(docs[ENVELOPE])
    verified = key is not None and key.keyid in signers
    if key is not None and verified:
        payload = verify_envelope(docs[ENVELOPE], key).payload
    statement = parse_statement(payload)
    for file in manifest.model_files:
        if file.title == CHAT_RECORD:  # pack wrote it, out of files that the build made
            continue
        if statement.files.get(file.title) != file.digest.hex:
            raise VerificationError(
                f"the provenance is not about this bundle's {file.title}",
                next_step="do not use this bundle; pack the model again",
            )
    definition = statement.predicate.build_definition
    gate = definition.internal_parameters.gate
    return Provenance(
        signed_by=(key.keyid if key and verified else ", ".join(signers)),
        verified=verified,
        build_id=definition.internal_parameters.build_id,
        model=definition.external_parameters.model,
        revision=definition.external_parameters.revision,
        isolation=definition.internal_parameters.isolation,
        gate=gate.profile if gate else "",
        passed=bool(gate and gate.passed),
    )

"""The software bill of materials of a bundle: CycloneDX 1.6 as JSON.

Pure, and equal for equal bundles: it holds no time, and its serial number follows from the
contents. It names every component that a device runs. Tools that only built the model have the
scope `excluded`.
https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import msgspec
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType, Pedigree
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from edgekit.bundle.contents import Contents

SBOM_NAME = "sbom.cdx.json"


def sbom(contents: Contents) -> bytes:
    """Encode the bill of materials as JSON."""
    bundle = Component(
        type=ComponentType.APPLICATION,
        name=contents.name,
        version=contents.version,
        bom_ref="bundle",
    )
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=contents.name,
        version=contents.build_id or None,
        bom_ref="model",
        components=[_file(name, sha256) for name, sha256 in sorted(contents.files.items())],
        pedigree=Pedigree(ancestors=_packages(contents.sources)) if contents.sources else None,
    )
    agent = Component(
        type=ComponentType.APPLICATION,
        name="edgekit-agent",
        bom_ref="agent",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=contents.agent)],
    )
    wheels = [PackageURL("pypi", name=n, version=v).to_string() for n, v in contents.runtime]
    runs = [model, agent, *_packages(wheels, ComponentScope.REQUIRED, "runtime/")]
    tools = _packages(contents.tools, ComponentScope.EXCLUDED, "build/")
    bom = Bom(components=[*runs, *tools], serial_number=_serial(contents))
    bom.metadata.component = bundle
    # the only value that would differ when packed again; the specification makes it optional
    bom.metadata.timestamp = None  # type: ignore[assignment]  # its setter takes only times
    bom.register_dependency(bundle, runs)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode()


def _serial(contents: Contents) -> uuid.UUID:
    text = msgspec.json.encode(contents, order="sorted").decode()
    return uuid.uuid5(uuid.NAMESPACE_URL, text)


def _file(name: str, sha256: str) -> Component:
    return Component(
        type=ComponentType.FILE,
        name=name,
        bom_ref=f"model/{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def _packages(
    purls: Iterable[str], scope: ComponentScope | None = None, prefix: str = "source/"
) -> list[Component]:
    found = []
    for text in sorted(set(purls)):
        purl = PackageURL.from_string(text)
        is_model = purl.type == "huggingface"
        found.append(
            Component(
                type=ComponentType.MACHINE_LEARNING_MODEL if is_model else ComponentType.LIBRARY,
                name=purl.name,
                version=purl.version,
                group=purl.namespace,
                purl=purl,
                scope=scope,
                bom_ref=prefix + text,
            )
        )
    return found

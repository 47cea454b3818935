"""The provenance of a model: an in-toto statement with SLSA build provenance v1.

Pure. Equal builds give equal bytes: the optional fields of SLSA that differ from run to run
(`invocationId`, `startedOn`/`finishedOn`) are left out, and so are all measurements. The statement
is unsigned; `edgekit pack` signs it.

`https://edgekit.dev/...` are names that the specifications require; nothing is fetched from there.
https://in-toto.io/Statement/v1, https://slsa.dev/provenance/v1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from packageurl import PackageURL

from edgekit.builder.spec import BuildRecord, Source

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://edgekit.dev/build/v1"
BUILDER_ID = "https://edgekit.dev/builder/v1"

# A resource descriptor of in-toto: identity (`uri` or `name`) and content (`digest`).
Resource = dict[str, Any]


def provenance_bytes(record: BuildRecord, packages: Mapping[str, str] | None = None) -> bytes:
    """`statement` as canonical JSON: keys sorted, no spaces, UTF-8."""
    return msgspec.json.encode(statement(record, packages), order="sorted")


def statement(record: BuildRecord, packages: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The statement about a build: its outputs, its inputs and its builder.

    Args:
        record: of the build, after the gate has run.
        packages: name -> version of everything that the toolchain's lock installs; default: the
            tools of the record.
    """
    spec = record.spec
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_resource(name, file.sha256) for name, file in sorted(record.files.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": spec.source.name,
                    "revision": spec.source.revision,
                    "precision": spec.precision,
                    "provider": spec.provider,
                    "recipe": record.recipe,
                    "options": spec.options,
                    "context": spec.context,
                    "trustRemoteCode": record.trust_remote_code,
                    **({"visionPrecision": spec.vision} if spec.vision else {}),
                },
                "internalParameters": {
                    "buildId": record.build_id,
                    "steps": spec.steps,
                    **({"told": spec.told} if spec.told else {}),
                    "path": record.route,
                    "isolation": record.isolation,
                    "gate": _gate(record),
                },
                "resolvedDependencies": _dependencies(record, packages or record.tools),
            },
            "runDetails": {"builder": {"id": f"{BUILDER_ID}/{record.isolation}"}},
        },
    }


def _gate(record: BuildRecord) -> dict[str, Any] | None:
    # without the figures, whose last digits depend on the kind of CPU
    gate = record.gate
    if gate is None:
        return None
    return {"profile": gate.profile, "thresholds": gate.thresholds, "passed": gate.passed}


def _dependencies(record: BuildRecord, packages: Mapping[str, str]) -> list[Resource]:
    spec = record.spec
    found = _source(spec.source)
    for option, files in sorted(spec.option_files.items()):
        found += [_resource(f"{option}/{name}", sha) for name, sha in sorted(files.items())]
    found.append(_resource("toolchain.lock", spec.toolchain))
    if record.image:
        found.append(_resource("builder image", record.image.removeprefix("sha256:")))
    found += [
        {"uri": PackageURL("pypi", name=name, version=version).to_string()}
        for name, version in sorted(packages.items())
    ]
    return found


def _source(source: Source) -> list[Resource]:
    files = sorted(source.files.items())
    if source.kind != "hub":
        return [_resource(name, sha) for name, sha in files]
    organisation, _, name = source.name.rpartition("/")
    repository = PackageURL("huggingface", organisation, name, source.revision).to_string()
    place = f"hf://{source.name}@{source.revision}"  # the scheme of huggingface_hub's file system
    return [
        {"uri": repository, "digest": {"gitCommit": source.revision}},
        *({"uri": f"{place}/{name}"} | _resource(name, sha) for name, sha in files),
    ]


def _resource(name: str, sha256: str) -> Resource:
    return {"name": name, "digest": {"sha256": sha256}}

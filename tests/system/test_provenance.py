"""What was built is what is packed: signed provenance, the docs layer, and the gate's say.

The models are a few kilobytes (`tests/models/model_folder.py`), everything around them is real.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.model.bom import Bom

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.stage import offer
from edgekit.broker.embedded import embedded_broker
from edgekit.builder.spec import GateSummary
from edgekit.bundle.docs import read_docs
from edgekit.bundle.layers import put_tar
from edgekit.bundle.layout import Layout
from edgekit.bundle.sign import load_key, public_key, sign_statement, verify_envelope
from edgekit.bundle.tar import plain_tar
from edgekit.cli.init import write_project
from edgekit.core.chat.tools.formats import CHAT_RECORD
from edgekit.core.digest import Digest
from edgekit.core.manifest import DOCS_TYPE, encode
from edgekit.keyfile import SigningKey
from edgekit.trust.pinned import PinnedManifest
from tests import tools
from tests.conftest import Project, make_project
from tests.models.model_folder import ABOUT, FAILED, MODEL, SPEC, model_folder
from tests.system.test_bundle import copy_package
from tests.trusted import vouched

pytestmark = pytest.mark.timeout(600)


NO_GOLDEN = "--no-golden"  # no runtime can load this model


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return empty(tmp_path / "project")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def empty(folder: Path) -> Project:
    """`edgekit init` without its process: many tests begin with it."""
    write_project(folder, 1)
    return Project(folder, 1)


def pack(project: Project, model: Path, *more: str) -> dict[str, Any]:
    out = project.edgekit("pack", str(model), "--name", "tiny", NO_GOLDEN, *more, "--json")
    return dict(json.loads(out))


def inspect(project: Project) -> dict[str, Any]:
    return dict(json.loads(project.edgekit("inspect", "--json")))


def bundle(project: Project) -> tuple[Layout, PinnedManifest]:
    store = Layout(project.store)
    return store, store.resolve(None)


def docs(project: Project) -> dict[str, bytes]:
    store, pinned = bundle(project)
    return read_docs(store, pinned.manifest)


def keys(project: Project) -> Path:
    return project.folder / ".edgekit" / "keys"


def refused(
    project: Project, model: Path, code: int, *words: str, more: tuple[str, ...] = ()
) -> None:
    done = project.run("pack", str(model), "--name", "tiny", NO_GOLDEN, *more)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert Layout(project.store).names() == {}


def test_a_device_is_offered_everything_but_the_docs(
    project: Project, model: Path, tmp_path: Path
) -> None:
    pack(project, model)
    store, pinned = bundle(project)
    (tmp_path / "device").mkdir()
    root = Root(tmp_path / "device")
    root.create()
    answer = msgspec.convert(offer(root, vouched(root, pinned))["missing"], list[dict[str, Any]])
    layers = {d.digest for d in (pinned.manifest.config, *pinned.manifest.layers)}
    assert pinned.manifest.docs is not None
    assert {item["digest"] for item in answer} == layers - {pinned.manifest.docs.digest}
    assert store.has(Digest.parse(pinned.manifest.docs.digest))


def test_a_push_leaves_the_docs_at_home(smollm2: Path, tmp_path: Path) -> None:
    port = tools.free_port()
    with embedded_broker("127.0.0.1", port):
        project = make_project(tmp_path, port, smollm2)
        try:
            project.edgekit("push", "demo")
        finally:
            project.run("stop", "demo")
    _, pinned = bundle(project)
    there = {p.name for p in (project.root() / "blobs" / "sha256").iterdir()}
    weights = {Digest.parse(d.digest).hex for d in pinned.manifest.model_files}
    assert pinned.manifest.docs is not None
    assert weights <= there
    assert Digest.parse(pinned.manifest.docs.digest).hex not in there


def test_only_the_model_becomes_layers_and_the_rest_is_docs(project: Project, model: Path) -> None:
    (model / ".hidden").write_text("of no interest")
    pack(project, model)
    _, pinned = bundle(project)
    assert {d.title for d in pinned.manifest.model_files} == {*MODEL, CHAT_RECORD}
    found = docs(project)
    made = {"provenance.json", "provenance.dsse.json", "sbom.cdx.json"}
    assert found.keys() == ABOUT.keys() | made
    assert {name: found[name] for name in ABOUT} == ABOUT


def test_the_statement_in_the_bundle_is_signed_by_the_project(
    project: Project, model: Path
) -> None:
    packed = pack(project, model)
    found = docs(project)
    key = public_key(keys(project))
    assert key is not None
    signed = verify_envelope(found["provenance.dsse.json"], key)
    assert signed.keyid == packed["signed_by"] == key.keyid
    assert signed.payload == found["provenance.json"] == (model / "provenance.json").read_bytes()


def test_inspect_says_who_signed_and_what_was_built(project: Project, model: Path) -> None:
    packed = pack(project, model)
    assert inspect(project)["provenance"] == {
        "signed_by": packed["signed_by"],
        "verified": True,
        "build_id": SPEC.build_id(),
        "model": "Org/Tiny-Instruct",
        "revision": SPEC.source.revision,
        "isolation": "host",
        "gate": "strict",
        "passed": True,
    }
    text = project.edgekit("inspect")
    source = f"Org/Tiny-Instruct at {SPEC.source.revision}"
    signer = f"by {packed['signed_by'][:12]} (this project's key)"
    for words in (signer, "passed (strict)", SPEC.build_id(), source):
        assert words in text


def test_another_project_s_signature_is_shown_as_unknown(
    project: Project, model: Path, tmp_path: Path
) -> None:
    other = empty(tmp_path / "other")
    signer = pack(other, model)["signed_by"]
    shutil.copytree(other.store, project.store)
    shown = inspect(project)["provenance"]
    assert (shown["verified"], shown["signed_by"]) == (False, signer)
    assert "not this project's key" in project.edgekit("inspect")


def test_a_forged_envelope_is_refused_at_inspect(project: Project, model: Path) -> None:
    """Under this project's key id, but not by its key: packed by a thief of the store."""
    pack(project, model)
    thief = SigningKey.generate_ed25519(keyid=load_key(keys(project)).public_key.keyid)
    forged = sign_statement(docs(project)["provenance.json"], thief)
    replace_docs(project, {"provenance.dsse.json": forged})
    done = project.run("inspect")
    assert done.returncode == 4
    assert "signature does not hold" in done.stderr


def test_a_statement_about_another_model_is_refused_at_inspect(
    project: Project, model: Path
) -> None:
    pack(project, model)
    statement = json.loads(docs(project)["provenance.json"])
    statement["subject"][0]["digest"]["sha256"] = "00" * 32
    signed = sign_statement(json.dumps(statement).encode(), load_key(keys(project)))
    replace_docs(project, {"provenance.dsse.json": signed})
    done = project.run("inspect")
    assert done.returncode == 4
    first = statement["subject"][0]["name"]
    assert f"not about this bundle's {first}" in done.stderr


def replace_docs(project: Project, files: dict[str, bytes]) -> None:
    """Another docs layer in the newest bundle, with digests that fit."""
    store, pinned = bundle(project)
    changed = put_tar(store, plain_tar((docs(project) | files).items()), DOCS_TYPE, {})
    layers = [d for d in pinned.manifest.layers if d.media_type != DOCS_TYPE]
    manifest = msgspec.structs.replace(pinned.manifest, layers=[*layers, changed])
    store.name("tiny:1", encode(manifest))


def test_packing_again_gives_the_same_digest_and_another_key_another_docs_layer(
    project: Project, model: Path, tmp_path: Path
) -> None:
    first = pack(project, model)
    _, pinned = bundle(project)
    # a repeated build: the same bytes, in another time
    again = model_folder(tmp_path / "again", seconds=99.0)
    assert pack(project, again)["digest"] == first["digest"]
    other = empty(tmp_path / "other")
    assert pack(other, model)["digest"] != first["digest"]
    layers, others = pinned.manifest.layers, bundle(other)[1].manifest.layers
    differ = {a.title for a, b in zip(layers, others, strict=True) if a != b}
    assert differ == {"docs.tar.zst"}


def test_an_edit_of_the_toolchain_changes_no_bundle(
    project: Project, model: Path, tmp_path: Path
) -> None:
    """Neither its lock, which is another build's business, nor the version restart a fleet."""
    first = pack(project, model)
    checkout = copy_package(tmp_path / "checkout")
    (checkout / "edgekit" / "__init__.py").write_text('__version__ = "9.9.9"\n')
    with (checkout / "containers" / "builder" / "toolchain.lock").open("a") as lock:
        lock.write("leftpad==1.0\n")
    with (checkout / "edgekit" / "builder" / "spec.py").open("a") as file:
        file.write("# edited\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "edgekit",
            "pack",
            str(model),
            "--name",
            "tiny",
            NO_GOLDEN,
            "--json",
        ],
        cwd=project.folder,
        env=project.env | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["digest"] == first["digest"]


def test_the_bill_of_materials_names_what_runs_and_what_built(
    project: Project, model: Path
) -> None:
    packed = pack(project, model)
    data = json.loads(docs(project)["sbom.cdx.json"])
    # required by CycloneDX 1.6, and what makes it deterministic
    assert (data["bomFormat"], data["specVersion"]) == ("CycloneDX", "1.6")
    assert "timestamp" not in data["metadata"]
    assert data["metadata"]["component"]["name"] == "tiny"
    assert uuid.UUID(data["serialNumber"])
    Bom.from_json(data)  # type: ignore[attr-defined]  # made by a decorator
    by_ref = {item["bom-ref"]: item for item in data["components"]}
    assert all({"type", "name"} <= item.keys() for item in by_ref.values())
    files = {c["name"]: c["hashes"][0]["content"] for c in by_ref["model"]["components"]}
    _, pinned = bundle(project)
    assert files == {d.title: d.digest[7:] for d in pinned.manifest.model_files}
    ancestor = by_ref["model"]["pedigree"]["ancestors"][0]
    assert ancestor["purl"] == f"pkg:huggingface/Org/Tiny-Instruct@{SPEC.source.revision}"
    assert by_ref["agent"]["hashes"][0]["content"] == pinned.manifest.agent.digest[7:]
    scopes = {item["name"]: item.get("scope") for item in by_ref.values()}
    assert scopes["onnxruntime"] == "required"
    assert scopes["torch"] == "excluded"
    runs = next(d for d in data["dependencies"] if d["ref"] == "bundle")["dependsOn"]
    assert not any(ref.startswith("build/") for ref in runs)
    assert packed["gate"] == "passed"


@pytest.mark.parametrize(
    ("gate", "why"), [(None, "without the gate"), (FAILED, "thresholds 'strict'")]
)
def test_a_model_that_has_not_passed_is_packed_on_demand_only(
    project: Project, tmp_path: Path, gate: GateSummary | None, why: str
) -> None:
    model = model_folder(tmp_path / "model", gate)
    refused(project, model, 2, "has not passed the gate", why, "--accept-ungated")
    assert pack(project, model, "--accept-ungated")["gate"] == "ungated"
    assert bundle(project)[1].manifest.annotations["org.edgekit.gate"] == "ungated"
    shown = inspect(project)
    assert (shown["gate"], shown["provenance"]["passed"]) == ("ungated", False)
    assert "gate     ungated" in project.edgekit("inspect")


def test_a_folder_of_another_builder_is_packed_on_demand_and_unsigned(
    project: Project, model: Path
) -> None:
    (model / "build.json").unlink()
    (model / "provenance.json").unlink()
    refused(project, model, 2, "no build.json", "--accept-ungated")
    packed = pack(project, model, "--accept-ungated")
    assert (packed["gate"], packed["signed_by"]) == ("ungated", None)
    assert "no: the model folder has no provenance" in project.edgekit("inspect")


def edited(model: Path) -> str:
    (model / "tokenizer.json").write_bytes(b"{]")  # as many bytes as before
    return "tokenizer.json is not the file that was built"


def cut(model: Path) -> str:
    (model / "model.onnx.data").write_bytes(MODEL["model.onnx.data"][:-1])
    return "model.onnx.data is not the file that was built"


def removed(model: Path) -> str:
    (model / "tokenizer.json").unlink()
    return "tokenizer.json is missing"


def added(model: Path) -> str:
    (model / "adapter.onnx_adapter").write_bytes(b"a")
    return "adapter.onnx_adapter was added"


def borrowed(model: Path) -> str:
    text = (model / "provenance.json").read_text()
    (model / "provenance.json").write_text(text.replace(SPEC.build_id(), "00" * 32))
    return "provenance.json is not of this build"


def upgraded(model: Path) -> str:
    text = (model / "provenance.json").read_text()
    assert text.count('"passed":true') == 1
    (model / "provenance.json").write_text(text.replace('"passed":true', '"passed":false'))
    return "provenance.json is not of this build"


@pytest.mark.parametrize("edit", [edited, cut, removed, added, borrowed, upgraded])
def test_a_model_that_is_not_what_was_built_is_refused(
    project: Project, model: Path, edit: Callable[[Path], str]
) -> None:
    refused(project, model, 4, edit(model), more=("--accept-ungated",))


def test_an_unreadable_record_is_refused(project: Project, model: Path) -> None:
    (model / "build.json").write_text("{")
    refused(project, model, 2, "build.json cannot be read", more=("--accept-ungated",))


def test_init_makes_the_key_and_keeps_it(tmp_path: Path) -> None:
    project = Project(tmp_path, 1)
    assert f"wrote  {Path('.edgekit/keys/signing.pem')}" in project.edgekit("init", ".")
    path = keys(project) / "signing.pem"
    data = path.read_bytes()
    assert f"kept   {Path('.edgekit/keys/signing.pem')}" in project.edgekit("init", ".")
    assert path.read_bytes() == data


def test_pack_makes_the_key_of_a_project_that_has_none(project: Project, model: Path) -> None:
    shutil.rmtree(keys(project))
    packed = pack(project, model)
    key = public_key(keys(project))
    assert key is not None
    assert packed["signed_by"] == key.keyid
    assert b"PRIVATE" not in b"".join(docs(project).values())

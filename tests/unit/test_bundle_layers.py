"""The agent layer and the files of a layer: what is missing is an error, what is large stays out
of memory."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import edgekit
from edgekit import data
from edgekit.agent.release.staging.unpack import unpack
from edgekit.bundle import layers
from edgekit.bundle.layers import (
    agent_layer,
    bootstrap,
    content_of,
    members,
    put_tar,
    runtime_packages,
)
from edgekit.bundle.tar import plain_tar
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    RUNTIME_TYPE,
    Descriptor,
    Manifest,
)
from edgekit.errors import EdgekitError
from edgekit.store import BlobStore

MEMBER_BYTES = 4 << 20
MEMBERS = 16

# Imports every module of the tree in `sys.argv[1]`; prints the modules and where they lie.
IMPORT_ALL = """
import importlib, json, sys
from pathlib import Path

tree, found = Path(sys.argv[1]), {}
for file in sorted(tree.rglob("*.py")):
    parts = file.relative_to(tree).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    try:
        found[name] = importlib.import_module(name).__file__
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        found[name] = ""
print(json.dumps(found))
"""


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "store")
    store.create()
    return store


# --- the projection ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tls_client.py", "agents", "agent/serv"])
def test_a_name_of_the_projection_that_is_missing_is_an_error(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(layers, "PROJECTION", (*layers.PROJECTION, name))
    with pytest.raises(EdgekitError, match=f"{name} is missing") as caught:
        agent_layer(store)
    assert "PROJECTION" in caught.value.next_step
    assert not list(store.folder.iterdir())


def test_a_folder_of_the_projection_that_was_moved_is_an_error_though_its_cache_is_there(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "edgekit"
    (package / "agent" / "__pycache__").mkdir(parents=True)
    (package / "agent" / "__pycache__" / "main.cpython-311.pyc").touch()
    monkeypatch.setattr(edgekit, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(layers, "PROJECTION", ("agent",))
    with pytest.raises(EdgekitError, match="agent is missing"):
        agent_layer(store)


def runtime_tree(folder: Path, *, pictures: bool) -> Path:
    """The packages of the runtime's locks, and none else, as links to those of this interpreter."""
    folder.mkdir()
    for package, _ in runtime_packages(pictures=pictures):
        try:
            files = importlib.metadata.distribution(package).files or []
        except importlib.metadata.PackageNotFoundError:
            continue  # whoever needs it will not be imported
        for top in {file.parts[0] for file in files} - {"..", "bin", "__pycache__"}:
            place = Path(str(files[0].locate())).parents[len(files[0].parts) - 1] / top
            if not (folder / top).exists():
                (folder / top).symlink_to(place)
    return folder


@pytest.mark.parametrize("pictures", [False, True])
def test_every_module_of_the_agent_layer_is_imported_as_on_a_device(
    store: BlobStore, tmp_path: Path, pictures: bool
) -> None:
    tree, runtime = tmp_path / "tree", runtime_tree(tmp_path / "runtime", pictures=pictures)
    unpack(store.path(Digest.parse(agent_layer(store).digest)), tree)
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", IMPORT_ALL, str(tree)],
        env={"PYTHONPATH": f"{tree}:{runtime}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(list(tree.rglob("*.py")))
    assert {"edgekit", "edgekit.mqtt.tls", "edgekit.agent.__main__"} <= found.keys()
    blind = {name for name, file in found.items() if not file}
    # the worker imports these alone, and only for a model that takes pictures
    reads = {f"edgekit.agent.serve.worker.pictures.{name}" for name in ("eyes", "read")}
    assert blind == (set() if pictures else reads)
    assert all(Path(file).is_relative_to(tree) for file in found.values() if file)


# --- the files of a layer ---------------------------------------------------------------------
@contextmanager
def peak_below(limit_bytes: int) -> Iterator[None]:
    """What is allocated in the block must not exceed the limit at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes


def large_layer(store: BlobStore, media_type: str = RUNTIME_TYPE) -> Descriptor:
    """Files of a package that no first contact needs, before and after two small ones."""
    large = [(f"{'az'[n % 2]}/{n:02}.so", bytes([n]) * MEMBER_BYTES) for n in range(MEMBERS)]
    small = [("msgspec/__init__.py", b"import sys\n"), ("empty", b"")]
    return put_tar(store, plain_tar([*large, *small]), media_type, {})


def test_the_files_of_a_layer_come_in_order_and_whole(store: BlobStore) -> None:
    layer = store.path(Digest.parse(large_layer(store).digest))
    found = [(name, Digest.of(content)) for name, content in members(layer)]
    names = [f"a/{n:02}.so" for n in range(0, MEMBERS, 2)] + ["empty", "msgspec/__init__.py"]
    names += [f"z/{n:02}.so" for n in range(1, MEMBERS, 2)]
    assert [name for name, _ in found] == names
    contents = dict(found)
    assert contents["z/03.so"] == Digest.of(b"\3" * MEMBER_BYTES)
    assert contents["empty"] == Digest.of(b"")


def test_a_layer_is_read_one_file_at_a_time(store: BlobStore) -> None:
    layer = store.path(Digest.parse(large_layer(store).digest))
    with peak_below(4 * MEMBER_BYTES):  # of sixteen
        assert sum(len(content) for _, content in members(layer)) > MEMBERS * MEMBER_BYTES


def test_a_first_contact_takes_no_memory_for_what_it_does_not_send(store: BlobStore) -> None:
    agent = put_tar(store, plain_tar([("edgekit/__init__.py", b"")]), AGENT_TYPE, {})
    runtime = large_layer(store)
    config = Descriptor(CONFIG_TYPE, Digest.of(b""), 0)
    manifest = Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, config, [agent, runtime])
    with peak_below(MEMBER_BYTES):
        name, tar = bootstrap(store, manifest, runtime)
    expected = [("edgekit/__init__.py", b""), ("msgspec/__init__.py", b"import sys\n")]
    assert tar == plain_tar(expected)
    assert re.fullmatch("[0-9a-f]{12}", name)


def test_a_device_has_the_toolchains_template_engine_and_tokenizers() -> None:
    """The gate compares chats in the toolchain, and devices render them with the same code."""
    lock = data.path("containers/builder/toolchain.lock").read_text("utf-8")
    device = dict(runtime_packages())
    for name in ("jinja2", "markupsafe", "tokenizers"):
        assert f"\n{name}=={device[name]} " in lock
        if name != "markupsafe":  # an exact pin of the controller, which tries them at `pack`
            assert importlib.metadata.version(name) == device[name]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("securesystemslib/_vendor/ed25519/test_data/ed25519", False),
        ("securesystemslib/_vendor/ed25519/ed25519.py", True),
        ("urllib3/response.py", True),
        ("tuf/ngclient/_internal/trusted_metadata_set.py", True),
    ],
)
def test_a_runtime_leaves_out_what_no_device_uses(name: str, kept: bool) -> None:
    assert bool(layers._PRUNED.search(name)) != kept


def test_no_interpreter_s_path_is_in_a_layer(tmp_path: Path) -> None:
    """A script that pip makes names the interpreter of whoever packs, and RECORD has its hash."""
    kept = {"a/__init__.py", "a-1.dist-info/RECORD", "a/with,comma.txt"}
    made = set()
    for script in ("uDSIiNRfbk9,218", "uWbS60n7dHAT,217"):
        record = tmp_path / "RECORD"
        record.write_text(
            f"../../bin/a,sha256={script}\na-1.dist-info/RECORD,,\na/__init__.py,sha256=x,1\n"
            'a/tests/b.py,sha256=z,3\n"a/with,comma.txt",sha256=y,2\n'
        )
        made.add(content_of("a-1.dist-info/RECORD", record, kept))
    assert made == {
        b'a-1.dist-info/RECORD,,\na/__init__.py,sha256=x,1\n"a/with,comma.txt",sha256=y,2\n'
    }
    assert content_of("a/__init__.py", record, kept) is record

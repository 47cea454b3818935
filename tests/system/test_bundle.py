"""Bundles: equal inputs give one digest, and other OCI tools agree about it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from edgekit.agent.release.staging.unpack import unpack
from edgekit.bundle.layers import agent_layer
from edgekit.core.digest import Digest
from edgekit.store import BlobStore
from tests import tools
from tests.conftest import PACK, Project, make_project

KEYS = ".edgekit/keys"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def project(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("bundles"), 1, smollm2)


def digest(project: Project, *arguments: str) -> str:
    return str(json.loads(project.edgekit("inspect", *arguments, "--json"))["digest"])


def test_packing_twice_gives_the_same_digest(
    project: Project, smollm2: Path, tmp_path: Path
) -> None:
    other = make_project(tmp_path / "elsewhere", 1, None)
    # the signature is part of a bundle, so the key is an input like the model
    shutil.copytree(project.folder / KEYS, other.folder / KEYS, dirs_exist_ok=True)
    other.edgekit("pack", str(smollm2), "--name", "smollm2", "--context", "1024", *PACK)
    assert digest(other) == digest(project)


def test_skopeo_reads_and_copies_the_store_and_keeps_the_digest(
    project: Project, tmp_path: Path
) -> None:
    source = f"oci:{project.store}:smollm2:1"
    skopeo = tools.find("skopeo")
    raw = subprocess.run([skopeo, "inspect", "--raw", source], capture_output=True, check=True)
    assert Digest.of(raw.stdout) == digest(project)
    target = f"oci:{tmp_path / 'copy'}:smollm2:1"
    subprocess.run([skopeo, "copy", "--quiet", source, target], check=True, capture_output=True)
    copied = subprocess.run([skopeo, "inspect", "--raw", target], capture_output=True, check=True)
    assert Digest.of(copied.stdout) == digest(project)


def test_inspect_says_what_a_trial_asks_of_the_model(project: Project) -> None:
    told = json.loads(project.edgekit("inspect", "--json"))["golden"]
    assert told == {"prompts": 4, "positions": 64, "soak_seconds": 0.0}
    assert "golden   4 prompts, 64 positions; 0 s of soak" in project.edgekit("inspect")


def test_inspect_finds_a_bundle_by_name_by_version_and_by_digest(project: Project) -> None:
    whole = digest(project)
    assert digest(project, "smollm2") == whole
    assert digest(project, "smollm2:1") == whole
    assert digest(project, whole[7:19]) == whole
    done = project.run("inspect", "nothing")
    assert done.returncode == 2
    assert "smollm2:1" in done.stderr


def copy_package(target: Path) -> Path:
    package = Path(edgekit.__file__).parent
    shutil.copytree(package, target / "edgekit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package.parent / "containers", target / "containers")
    return target


def layer_of(checkout: Path, store: Path) -> str:
    """The agent layer's digest as a checkout in another folder makes it."""
    code = (
        "import sys; from pathlib import Path; from edgekit.store import BlobStore;"
        "from edgekit.bundle.layers import agent_layer; s = BlobStore(Path(sys.argv[1]));"
        "s.create(); print(agent_layer(s).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)],
        env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin"},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_toolchain_and_the_version_do_not_change_the_agent_layer(tmp_path: Path) -> None:
    checkout = copy_package(tmp_path / "checkout")
    before = layer_of(checkout, tmp_path / "a")
    (checkout / "edgekit" / "__init__.py").write_text('__version__ = "9.9.9"\n')
    for part in ("builder", "bundle", "fleet", "broker", "cli", "client"):
        with (checkout / "edgekit" / part / "__init__.py").open("a") as file:
            file.write("# edited\n")
    assert layer_of(checkout, tmp_path / "b") == before
    package = checkout / "edgekit"
    (package / "cli" / "watch.py").rename(package / "cli" / "seen.py")
    recipe = package / "builder" / "request" / "recipe.py"
    recipe.rename(package / "builder" / "plan" / "recipe.py")
    (package / "fleet" / "link" / "remote.py").unlink()
    (package / "rollout").mkdir()
    (package / "rollout" / "__init__.py").write_text("")
    (package / "new.py").write_text("# beside the projection\n")
    (package / "agent" / "notes.txt").write_text("no Python\n")
    (package / "agent" / "__main__.py").touch()  # another time
    assert layer_of(checkout, tmp_path / "moved") == before
    with (checkout / "edgekit" / "agent" / "serve" / "session" / "session.py").open("a") as file:
        file.write("# edited\n")
    assert layer_of(checkout, tmp_path / "c") != before


def test_the_agent_layer_runs_in_a_bare_interpreter(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.create()
    layer = agent_layer(store)
    unpack(store.path(Digest.parse(layer.digest)), tmp_path / "tree")
    names = {p.relative_to(tmp_path / "tree").parts[1] for p in (tmp_path / "tree").rglob("*.py")}
    modules = {f"{name}.py" for name in ("__init__", "errors", "memory", "store")}
    assert names == modules | {"core", "mqtt", "registry", "tokens", "trust", "agent"}
    there = {p.name for p in (tmp_path / "tree" / "edgekit" / "mqtt").iterdir()}
    assert there == {p.name for p in Path(edgekit.__file__).with_name("mqtt").glob("*.py")}
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", "import edgekit.errors, edgekit.core.layout"],
        env={"PYTHONPATH": str(tmp_path / "tree")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_pack_refuses_what_is_not_a_model_and_a_cap_the_model_cannot_have(
    project: Project, smollm2: Path, tmp_path: Path
) -> None:
    done = project.run("pack", str(tmp_path), "--name", "empty")
    assert done.returncode == 2
    assert "genai_config.json" in done.stderr
    done = project.run("pack", str(smollm2), "--name", "big", "--context", "1000000")
    assert done.returncode == 2
    assert "8192 tokens" in done.stderr
    done = project.run("pack", str(smollm2), "--name", "big", "--runtime", "linux/riscv64:3.11")
    assert done.returncode == 2
    assert "linux/arm64" in done.stderr


def test_a_bundle_for_another_platform_is_refused_naming_the_flag(
    smollm2: Path, tmp_path: Path
) -> None:
    project = make_project(tmp_path, 1, smollm2, "--runtime", "linux/arm64:3.13")
    done = project.run("push", "demo")
    assert done.returncode == 4
    assert "--runtime linux/" in done.stderr

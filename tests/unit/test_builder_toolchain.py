"""The choice of the toolchain, and its refusals. A system test installs it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit import data
from edgekit.builder.files import hash_file
from edgekit.builder.tools import host as toolchain
from edgekit.builder.tools.host import HostToolchain, check_machine, find_python, locked_versions
from edgekit.data import cache_root
from edgekit.errors import EdgekitError
from tests.building import silent


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path.home() / ".cache" / "edgekit"


def test_the_toolchain_is_keyed_by_its_lock(tmp_path: Path) -> None:
    lock = data.path("containers/builder/toolchain.lock")
    host = HostToolchain(cache=tmp_path)
    assert host.digest == hash_file(lock)
    assert host.folder == tmp_path / "toolchain" / host.digest[:16]
    assert host.tools["onnxruntime-genai"] == "0.18.0"
    assert host.tools["torch"].endswith("+cpu")


def test_versions_are_read_out_of_a_lock() -> None:
    lock = "onnx==1.2 \\\n    --hash=sha256:00\nnumpy==3\ntorch==2.0+cpu ; python_version > '3'\n"
    assert locked_versions(lock) == {"onnx": "1.2", "numpy": "3", "torch": "2.0+cpu"}


@pytest.mark.parametrize("machine", [("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")])
def test_other_machines_are_refused_by_name(machine: tuple[str, str]) -> None:
    with pytest.raises(EdgekitError, match=" ".join(machine)):
        check_machine(*machine)


def test_without_python_3_11_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(EdgekitError) as missing:
        find_python()
    assert "python3.11-venv" in missing.value.next_step
    assert "uv python install 3.11" in missing.value.next_step


def test_another_python_3_11_on_the_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/{name}")
    assert find_python() == "/somewhere/python3.11"


def pip_knows_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point pip at an index in a folder, whatever this machine's configuration says."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())


def index_with_a_torch(folder: Path) -> str:
    """Makes an index with one tiny wheel, torch 0.0+cpu; returns the line of a lock for it."""
    wheel = folder / "torch" / "torch-0.0+cpu-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    info = "torch-0.0+cpu.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 0.0+cpu\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"torch.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    link = f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>'
    (wheel.parent / "index.html").write_text(link)
    return f"torch==0.0+cpu --hash=sha256:{hash_file(wheel)}\n"


@pytest.mark.timeout(120)
def test_torch_is_taken_from_pytorchs_own_index_when_pip_does_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_knows_only(tmp_path / "empty", monkeypatch)
    lock = tmp_path / "toolchain.lock"
    lock.write_text(index_with_a_torch(tmp_path / "pytorch"))
    monkeypatch.setattr(toolchain, "TORCH_CPU_INDEX", (tmp_path / "pytorch").as_uri())
    host = HostToolchain(lock, tmp_path / "cache")
    python = host.ready(silent).python
    subprocess.run([python, "-I", "-c", "import torch"], check=True)
    # and the next one finds it whole, without pip
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert HostToolchain(lock, tmp_path / "cache").ready(silent).python == python


@pytest.mark.timeout(120)
def test_a_failed_installation_leaves_no_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_knows_only(tmp_path / "empty", monkeypatch)
    monkeypatch.setattr(toolchain, "TORCH_CPU_INDEX", (tmp_path / "empty").as_uri())
    lock = tmp_path / "toolchain.lock"
    lock.write_text(f"torch==0.0+cpu --hash=sha256:{'0' * 64}\n")
    host = HostToolchain(lock, tmp_path / "cache")
    with pytest.raises(EdgekitError) as failed:
        host.ready(silent)
    assert "torch==0.0+cpu" in failed.value.why
    assert not host.folder.exists()


def test_an_incomplete_toolchain_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "toolchain.lock"
    lock.write_text("")
    host = HostToolchain(lock, tmp_path / "cache")
    (host.folder / "bin").mkdir(parents=True)
    (host.folder / "half").touch()

    def make(self: HostToolchain, base: str, report: object) -> None:
        assert not host.folder.exists()
        (host.folder / "bin").mkdir(parents=True)
        (host.folder / "bin" / "python").symlink_to(sys.executable)
        (host.folder / "complete.json").write_text("{}")

    monkeypatch.setattr(toolchain.HostToolchain, "_make", make)
    assert host.ready(silent).python == host.folder / "bin" / "python"
    monkeypatch.setattr(toolchain.HostToolchain, "_make", None)  # not called for a complete one
    host.ready(silent)

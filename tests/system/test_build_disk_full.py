"""The disk fills up, at each stage of a build: one error that says so, nothing half-made, and the
same command goes on once there is room.

Each test puts a small tmpfs over one folder, in a mount namespace that ends with the command.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.builder.source.samples import smollm2_gguf
from edgekit.data import cache_root
from tests.building import TESTS, command, content, edgekit_build, environment, left_in

pytestmark = pytest.mark.timeout(600)


def build_on_a_small_disk(
    folder: Path, kilobytes: int, *arguments: str | Path, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a build while `folder` lies on a disk of that size; what is left there is printed."""
    folder.mkdir(parents=True, exist_ok=True)
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = (
        f'mount -t tmpfs -o size={kilobytes}k none "$0" && "$@"; code=$?; '
        'find "$0" -mindepth 1 -not -path "*/.cache/*"; exit $code'
    )
    return subprocess.run(
        [*namespace, "sh", "-c", script, str(folder), *command(*arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(**extra),
        check=False,
    )


def assert_it_says_so(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr or "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert "next:" in done.stderr


def test_while_the_builder_writes(qwen2: Path, tmp_path: Path) -> None:
    arguments = ("--host", "--no-gate", "-m", qwen2, "-o", tmp_path / "small" / "out")
    done = build_on_a_small_disk(tmp_path / "small", 200, *arguments)
    assert_it_says_so(done)
    assert done.stdout == ""
    assert edgekit_build(*arguments).returncode == 0
    assert left_in(tmp_path / "small") == ["out"]


def test_while_a_model_of_the_hub_is_downloaded(qwen2: Path, tmp_path: Path) -> None:
    hub = runpy.run_path(str(TESTS / "fakes/hub.py"))
    cache = tmp_path / "cache"
    arguments = ("--host", "--no-gate", "-m", "some/tiny", "-c", cache, "-o", tmp_path / "out")
    with hub["serving"](qwen2, "some/tiny") as address:
        done = build_on_a_small_disk(cache, 100, *arguments, HF_ENDPOINT=address)
        assert_it_says_so(done)
        assert not (tmp_path / "out").exists()
        assert edgekit_build(*arguments, HF_ENDPOINT=address).returncode == 0


def test_while_a_gguf_is_dequantised(tmp_path: Path) -> None:
    # the cache elsewhere, with the toolchain that is there already
    cache = tmp_path / "cache"
    (cache / "edgekit").mkdir(parents=True)
    (cache / "edgekit" / "toolchain").symlink_to(cache_root() / "toolchain")
    small = cache / "edgekit" / "dequantised"
    done = build_on_a_small_disk(
        small, 50_000, "--host", "-m", smollm2_gguf(), "-o", tmp_path / "out",
        XDG_CACHE_HOME=str(cache),
    )  # fmt: skip
    assert_it_says_so(done)
    assert done.stdout == ""
    assert left_in(tmp_path) == ["cache"]


def test_while_the_gate_keeps_its_reference(qwen2: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "edgekit").mkdir(parents=True)
    (cache / "edgekit" / "toolchain").symlink_to(cache_root() / "toolchain")
    arguments = ("--host", "--gate", "small", "-m", qwen2, "-o", tmp_path / "out")
    done = build_on_a_small_disk(
        cache / "edgekit" / "reference", 60, *arguments, XDG_CACHE_HOME=str(cache)
    )
    assert_it_says_so(done)
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert edgekit_build(*arguments, XDG_CACHE_HOME=str(cache)).returncode == 0


def test_a_full_disk_leaves_the_model_that_was_there(qwen2: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    arguments = ("--host", "--no-gate", "-m", qwen2, "-o", place / "out")
    assert edgekit_build(*arguments).returncode == 0
    before = content(place / "out")
    kept = tmp_path / "kept"
    shutil.copytree(place / "out", kept)
    size = sum(path.stat().st_size for path in kept.iterdir())
    # the namespace's disk starts with a copy of the model and has no room for a second one
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = (
        f'mount -t tmpfs -o size={size * 3 // 2} none "$0" && cp -r "$1" "$0/out" && '
        'shift && "$@"; '
        'code=$?; ls -A "$0"; sha256sum "$0"/out/*.data; exit $code'
    )
    build = command(*arguments, "-x", "block_size=64")
    done = subprocess.run(
        [*namespace, "sh", "-c", script, str(place), str(kept), *build],
        capture_output=True, text=True, timeout=200, env=environment(), check=False,
    )  # fmt: skip
    assert_it_says_so(done)
    assert done.stdout.splitlines()[0] == "out"
    assert content(place / "out") == before

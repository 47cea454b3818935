"""Builds in a container: the same bytes as on the host, and no way out of it. Real podman."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.container import ContainerRunner, ContainerToolchain
from edgekit.builder.tools.engine import ask, find_engine
from edgekit.builder.tools.job import Job
from edgekit.builder.tools.process import INSIDE, ProcessResult, event
from edgekit.builder.tools.progress import Progress
from tests import image_record
from tests.building import TESTS, command, content, edgekit_build, environment, left_in, silent
from tests.pictured import checkpoint
from tests.tools import eventually, interruptible

pytestmark = pytest.mark.timeout(900)
MEMORY = 512 * 2**20
_HALF_BROKEN = """case "$1" in info|image) exec {podman} "$@";; esac
echo 'runc: no such device' >&2; exit 126"""


@pytest.fixture(scope="session")
def toolchain() -> ContainerToolchain:
    """With its image built; on a new machine that takes minutes."""
    made = ContainerToolchain()
    made.ready(silent)
    return made


@pytest.fixture
def runner(toolchain: ContainerToolchain, tmp_path: Path) -> ContainerRunner:
    """Runs a script that looks around."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for script in (
        INSIDE / "leash.py",
        *(TESTS / "harness" / "inside" / name for name in ("give_pages_back.py", "look_around.py")),
    ):
        shutil.copy(script, scripts)
    shutil.copytree(INSIDE / "common", scripts / "common")
    ready = toolchain.ready(silent)
    return ContainerRunner(ready.engine, ready.image, scripts)


def look_around(
    runner: ContainerRunner, folder: Path, *words: str | Path, **job: Any
) -> ProcessResult:
    work = folder / "work"
    work.mkdir()
    return runner.run(
        Job("look_around.py", words, work, Progress("look"), deadline_seconds=60, **job), silent
    )


def containers() -> list[str]:
    form = ["--filter", "name=^edgekit-", "--format", "{{.Names}}"]
    return ask([*find_engine().argv, "ps", "--all", *form]).stdout.split()


def test_the_image_built_twice_from_scratch_has_one_digest(toolchain: ContainerToolchain) -> None:
    made = image_record.found()
    assert made.digest == toolchain.image
    if not (digest := image_record.known(made)):
        digest = image_record.build_again()
        if digest == made.digest:
            image_record.keep(made)
    assert made.digest == digest
    how = "a new lock or Containerfile: `python -m tests.image_record` builds both and records them"
    assert image_record.is_recorded(made), how


def test_a_model_that_takes_pictures_is_equal_in_container_and_on_the_host(
    toolchain: ContainerToolchain, python: str, tmp_path: Path
) -> None:
    source = checkpoint(python, tmp_path / "source", "--table", "inner")
    for name, words in (("inside", ("--gate", "small")), ("outside", ("--host", "--no-gate"))):
        done = edgekit_build("-m", source, "-o", tmp_path / name, *words)
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "inside") == content(tmp_path / "outside")
    records = [json.loads((tmp_path / name / "build.json").read_text()) for name in
               ("inside", "outside")]  # fmt: skip
    assert [record["isolation"] for record in records] == ["container", "host"]
    assert records[0]["build_id"] == records[1]["build_id"]


def test_container_and_host_and_verify_make_equal_bytes(
    toolchain: ContainerToolchain, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    model = ("-m", smollm2_gguf(), "--no-gate", "--recipe", "plain")
    done = edgekit_build(*model, "-o", inside)
    assert done.returncode == 0, done.stderr
    done = edgekit_build(*model, "--host", "-o", outside)
    assert done.returncode == 0, done.stderr
    assert content(inside) == content(outside)
    # what was made on the host, repeated in the container
    done = edgekit_build("--verify", outside, "-m", smollm2_gguf())
    assert done.returncode == 0, done.stderr
    assert "equal in" in done.stdout
    assert "container" in done.stdout


def test_a_job_has_no_network_no_rights_and_one_folder_to_write_to(
    runner: ContainerRunner, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "read,me").write_text("given", encoding="utf-8")
    (tmp_path / "beside").write_text("not given", encoding="utf-8")
    finished = look_around(runner, tmp_path, "--read", given / "read,me", reads=(given,))
    assert finished.code == 0, finished.tail
    seen = event(finished, "result")
    assert seen is not None
    assert seen["uid"] != 0
    assert seen["interfaces"] == ["lo"]
    assert int(seen["capabilities"], 16) == 0
    assert seen["home"] == "/tmp"
    assert seen["reads_input"] == "given"
    assert seen["sees"] == ["read,me"]
    assert (seen["writes_root"], seen["writes_input"]) != ("worked", "worked")
    assert seen["writes_root"] == "OSError"  # a read-only file system
    assert seen["writes_input"] != "worked"
    assert seen["writes_work"] == "worked"
    made = tmp_path / "work" / "made"
    assert made.read_text(encoding="utf-8") == "made"
    assert made.stat().st_uid == os.geteuid()
    assert containers() == []


def test_private_files_and_links_are_seen(runner: ContainerRunner, tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_text("private", encoding="utf-8")
    blob.chmod(0o600)
    given = tmp_path / "snapshot"
    given.mkdir()
    (given / "model").symlink_to("../blobs/abc")
    finished = look_around(runner, tmp_path, "--read", given / "model", reads=(given,))
    seen = event(finished, "result")
    assert seen is not None, finished.tail
    assert seen["reads_input"] == "private"
    assert left_in(tmp_path / "work") == ["look_around.events", "look_around.log", "made"]


def test_a_folder_that_only_root_may_enter_is_seen(runner: ContainerRunner, tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / "deep").mkdir(parents=True)
    (given / "deep" / "private").write_text("private", encoding="utf-8")
    (given / "deep" / "private").chmod(0o600)
    (given / "model").symlink_to("deep/private")
    for folder in (given / "deep", given):
        folder.chmod(0o700)
    for name in ("model", "deep/private"):
        work = tmp_path / name.replace("/", "-")
        work.mkdir()
        finished = look_around(runner, work, "--read", given / name, reads=(given,))
        seen = event(finished, "result")
        assert seen is not None, finished.tail
        assert seen["reads_input"] == "private"


def test_pages_of_a_file_that_is_somebody_elses_are_given_back(
    runner: ContainerRunner, tmp_path: Path
) -> None:
    size = 64 * 2**20
    file, work = tmp_path / "given" / "weights", tmp_path / "work"
    for folder in (file.parent, work):
        folder.mkdir()
    file.write_bytes(b"edgekit." * (size // 8))
    file.chmod(0o444)  # root's, where root calls, and seen by nobody
    job = Job(
        "give_pages_back.py", (file,), work, Progress("give"), deadline_seconds=60,
        reads=(file.parent,),
    )  # fmt: skip
    finished = runner.run(job, silent)
    seen = event(finished, "result")
    assert seen is not None, finished.tail
    assert seen["given_back"] > size * 0.9
    assert seen["reads_the_same"]
    assert seen["keeps_what_was_written"] == 1
    assert seen["keeps_the_heap"]


def test_a_mended_source_makes_equal_bytes_in_the_container(
    runner: ContainerRunner, qwen2: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(qwen2, tmp_path / "model")  # the output's name, too
    config = json.loads((source / "config.json").read_text())
    config.pop("rope_parameters", None)
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    config |= {"max_position_embeddings": 16384, "rope_scaling": scaling}
    (source / "config.json").write_text(json.dumps(config))
    ways: dict[str, tuple[str, ...]] = {"inside": (), "outside": ("--host",)}
    for name, where in ways.items():
        done = edgekit_build("--no-gate", "-m", source, "-o", tmp_path / name, *where)
        assert done.returncode == 0, done.stderr
        assert "YaRN's borders are written out" in done.stderr + done.stdout
    assert content(tmp_path / "inside") == content(tmp_path / "outside")
    assert not any(path.is_symlink() for path in (tmp_path / "inside").iterdir())


def test_too_much_memory_ends_the_job_alone(runner: ContainerRunner, tmp_path: Path) -> None:
    finished = look_around(
        runner, tmp_path, "--take", str(2 * MEMORY), memory_limit_bytes=MEMORY
    )  # fmt: skip
    assert finished.code == -signal.SIGKILL
    assert "ran out of memory" in finished.reason
    assert not Path("oom").exists(), "the engine's monitor left a file where the user stands"
    assert "0.5 GiB" in finished.reason


def test_a_killed_edgekit_leaves_no_container(
    toolchain: ContainerToolchain, qwen2: Path, tmp_path: Path
) -> None:
    build = subprocess.Popen(
        command("--no-gate", "-m", qwen2, "-o", tmp_path / "out"),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: containers() != [], seconds=60)
    finally:
        build.kill()
        build.wait()
    eventually(lambda: containers() == [], seconds=30)


def test_ctrl_c_leaves_no_container_and_nothing_half_made(
    toolchain: ContainerToolchain, qwen2: Path, tmp_path: Path
) -> None:
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    with interruptible():
        build = subprocess.Popen(
            command("--no-gate", "-m", qwen2, "-o", out),
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    eventually(lambda: containers() != [], seconds=60)
    build.send_signal(signal.SIGINT)
    _, said = build.communicate(timeout=30)
    assert build.returncode == 130, said
    assert "Traceback" not in said
    assert containers() == []
    assert left_in(out.parent) == []


def test_without_an_engine_the_error_names_host(qwen2: Path, tmp_path: Path) -> None:
    done = edgekit_build("--no-gate", "-m", qwen2, "-o", tmp_path / "out", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no container engine" in done.stderr
    assert "--host" in done.stderr
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'Cannot connect to the service' >&2; exit 125", "Cannot connect to the service"),
        (_HALF_BROKEN, "runc: no such device"),
    ],
    ids=["does not answer", "starts nothing"],
)  # fmt: skip
def test_a_broken_engine_is_one_error_that_names_host(
    toolchain: ContainerToolchain, script: str, says: str, qwen2: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "bin" / "podman"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\n" + script.replace("{podman}", shutil.which("podman") or ""))
    broken.chmod(0o755)
    path = f"{broken.parent}:{os.environ['PATH']}" if "exec" in script else str(broken.parent)
    if "exec" not in script:
        (broken.parent / "sh").symlink_to("/bin/sh")
    done = edgekit_build("--no-gate", "-m", qwen2, "-o", tmp_path / "out", PATH=path)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "--host" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path) == ["bin"]


def test_a_base_that_is_not_pinned_is_refused(qwen2: Path, tmp_path: Path) -> None:
    done = edgekit_build(
        "--no-gate", "-m", qwen2, "-o", tmp_path / "out",
        EDGEKIT_BUILDER_BASE="docker.io/library/python:3.11-slim",
    )  # fmt: skip
    assert done.returncode == 2
    assert "not pinned" in done.stderr

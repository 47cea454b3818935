"""Builds with the real toolchain: their results, and the state that failures leave."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.builder.request.options import KNOWN_KEYS, RESERVED_KEYS
from edgekit.builder.source.samples import smollm2_gguf
from tests.building import (
    AS_INSTALLED,
    ROOT,
    TESTS,
    answer,
    command,
    content,
    edgekit_build,
    environment,
    left_in,
    make_tiny,
)
from tests.tools import interruptible

INSTALL_SECONDS = 1800
WAIT_SECONDS = 60

pytestmark = pytest.mark.timeout(600)


def processes_of(folder: Path) -> Iterator[int]:
    """Process ids whose command line names the place of a build in the folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{folder}/.".encode() in line and b".building-" in line:
            yield int(entry.name)


def wait_for_builder(folder: Path) -> int:
    """The process id of the real builder, once it has printed something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        said = any(log.stat().st_size for log in folder.glob(".*.building-*/*/convert.log"))
        for pid in processes_of(folder):
            if said:
                return pid
        time.sleep(0.05)
    raise AssertionError("the builder did not start")


def wait_until_nobody_builds_in(folder: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while list(processes_of(folder)):
        assert time.monotonic() < deadline, "a process of the build goes on"
        time.sleep(0.05)


def option_keys(models: Path) -> set[str]:
    """Every key the builder's source reads out of `extra_options`, and every one its help names.

    Read: `extra_options["k"]`, `.get("k")`, `.pop("k")`, `"k" in extra_options`, also as an
    attribute, and the keys of its list of booleans. Its help names those it reads by a variable.
    """
    keys: set[str] = set()
    for path in models.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Subscript(value=owner, slice=ast.Constant(value=str(key))):
                    pass
                case ast.Call(
                    func=ast.Attribute(value=owner, attr="get" | "pop" | "setdefault"),
                    args=[ast.Constant(value=str(key)), *_],
                ):
                    pass
                case ast.Compare(left=ast.Constant(value=str(key)), comparators=[owner]):
                    pass
                case ast.Assign(targets=[ast.Name(id="bools")], value=ast.List(elts=names)):
                    keys |= {str(name.value) for name in names if isinstance(name, ast.Constant)}
                    continue
                case ast.Constant(value=str(text)) if "Currently supports:" in text:
                    keys |= help_keys(text)
                    continue
                case _:
                    continue
            if ast.unparse(owner).rpartition(".")[2] == "extra_options":
                keys.add(key)
    return {key for key in keys if not key.startswith("_")}


def help_keys(text: str) -> set[str]:
    """The `key = what it does` lines of the builder's help, by their indentation."""
    lines = [line for line in text.splitlines() if " = " in line and line.startswith(" " * 16)]
    found = {line[16:].partition(" = ")[0] for line in lines if line[16:17].strip()}
    return {key for key in found if key.isidentifier()}


def test_the_option_list_is_the_locked_builders(python: str) -> None:
    (models,) = Path(python).parents[1].glob("lib/python*/site-packages/onnxruntime_genai/models")
    # hf_details is how two of its functions talk to each other
    assert option_keys(models) - {"hf_details"} == KNOWN_KEYS | RESERVED_KEYS.keys()


@pytest.mark.timeout(INSTALL_SECONDS)
def test_a_gguf_becomes_a_model_that_answers(python: str, tmp_path: Path) -> None:
    out = tmp_path / "smollm2"
    # the gate on it: test_gate.py, and the tour of test_readme.py
    done = edgekit_build("--host", "--no-gate", "-m", smollm2_gguf(), "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result["files"]) == [
        "chat_template.jinja",
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert 80e6 < result["total_bytes"] < 100e6
    assert 0.5e9 < result["peak_rss_bytes"] < 4e9
    assert "local_files_only" not in (out / "tokenizer_config.json").read_text()
    assert left_in(tmp_path) == ["smollm2"]
    assert "Paris" in answer(python, out, "What is the capital of France?")
    # anything over a second shows progress
    assert "build:" in done.stderr

    again = edgekit_build("--host", "--no-gate", "-m", smollm2_gguf(), "-o", out)
    assert again.returncode == 0
    assert "up to date" in again.stdout


@pytest.mark.parametrize("family", ["qwen2", "gemma"])
def test_building_twice_gives_equal_bytes(python: str, family: str, tmp_path: Path) -> None:
    model = make_tiny(python, family, tmp_path / family)
    outs = [tmp_path / "one", tmp_path / "two"]
    ids = []
    for out in outs:
        done = edgekit_build("--host", "--no-gate", "-m", model, "-o", out, "--json")
        assert done.returncode == 0, done.stderr
        ids.append(json.loads(done.stdout)["build_id"])
    assert ids[0] == ids[1]
    assert content(outs[0]) == content(outs[1])
    answer(python, outs[0], "1 2 3")  # it loads and runs; random weights say nothing


def test_an_option_reaches_the_builder(qwen2: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = edgekit_build("--host", "--no-gate", "-m", qwen2, "-o", out, "-x", "num_hidden_layers=1")
    assert done.returncode == 0, done.stderr
    config = json.loads((out / "genai_config.json").read_text())
    assert config["model"]["decoder"]["num_hidden_layers"] == 1


def test_a_failing_build_leaves_nothing_and_says_one_line(qwen2: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(qwen2, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")  # which only the builder reads
    done = edgekit_build("--host", "--no-gate", "-m", broken, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "the model builder failed" in done.stderr
    (why,) = [line for line in done.stderr.splitlines() if line.startswith("  why:")]
    assert "KeyError: 'added_tokens'" in why
    assert left_in(tmp_path) == ["broken"]


def test_an_unknown_architecture_is_refused_before_anything_is_made(
    qwen2: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(qwen2, tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text().replace("Qwen2ForCausalLM", "QwenXForCausalLM"))
    done = edgekit_build("--host", "--no-gate", "-m", other, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "does not know QwenXForCausalLM" in done.stderr
    assert left_in(tmp_path) == ["other"]


def test_a_builder_killed_by_signal_9_leaves_nothing(qwen2: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command("--host", "--no-gate", "-m", qwen2, "-o", tmp_path / "out"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**AS_INSTALLED),
    ) as build:
        os.kill(wait_for_builder(tmp_path), signal.SIGKILL)
        _, said = build.communicate(timeout=WAIT_SECONDS)
    assert build.returncode == 1
    assert "out of memory" in said
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_leaves_nothing(
    qwen2: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with interruptible():
        build = subprocess.Popen(
            command("--host", "--no-gate", "-m", qwen2, "-o", tmp_path / "out"),
            stderr=subprocess.DEVNULL,
            env=environment(**AS_INSTALLED),
        )
    with build:
        wait_for_builder(tmp_path)
        build.send_signal(number)
        assert build.wait(timeout=WAIT_SECONDS) != 0
    assert left_in(tmp_path) == []
    wait_until_nobody_builds_in(tmp_path)


def test_a_killed_edgekit_ends_its_builder_and_the_next_build_cleans_up(
    qwen2: Path, tmp_path: Path
) -> None:
    arguments = ("--host", "--no-gate", "-m", qwen2, "-o", tmp_path / "out")
    with subprocess.Popen(
        command(*arguments), stderr=subprocess.DEVNULL, env=environment(**AS_INSTALLED)
    ) as build:
        wait_for_builder(tmp_path)
        build.kill()
        build.wait(timeout=WAIT_SECONDS)
    wait_until_nobody_builds_in(tmp_path)
    assert edgekit_build(*arguments).returncode == 0
    assert left_in(tmp_path) == ["out"]


def test_a_broken_gguf_is_an_error_of_one_line(python: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    done = edgekit_build("--host", "--no-gate", "-m", path, "-o", tmp_path / "out")
    assert done.returncode == 2  # the header is read first
    assert "broken.gguf cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path) == ["broken.gguf"]


def test_an_unreachable_hub_is_said_soon(python: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = edgekit_build(
        "--host",
        "--no-gate",
        "-m",
        "some/model",
        "-o",
        tmp_path / "out",
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert time.monotonic() - started < 30
    assert done.returncode == 1
    assert "Hugging Face cannot be reached for some/model" in done.stderr
    assert left_in(tmp_path) == []


def test_the_first_cosines_of_a_process_are_always_the_same(python: str) -> None:
    """Without `compute_first_cosine` one process in 250 has others, on two busy CPUs."""
    script, inside = TESTS / "harness/first_cosines.py", ROOT / "edgekit" / "builder" / "inside"
    done = subprocess.run(
        [python, script, inside, "500"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["1"]


def test_a_model_of_the_hub_is_pinned_to_its_commit(qwen2: Path, tmp_path: Path) -> None:
    hub = runpy.run_path(str(TESTS / "fakes/hub.py"))
    arguments = ("--host", "--no-gate", "-m", "some/tiny", "-c", tmp_path / "cache", "--json")
    with hub["serving"](qwen2, "some/tiny") as address:
        first = edgekit_build(*arguments, "-o", tmp_path / "one", HF_ENDPOINT=address)
        unknown = edgekit_build(
            *arguments, "-o", tmp_path / "no", "--revision", "v9", HF_ENDPOINT=address
        )
        missing = edgekit_build(
            "--host", "--no-gate", "-m", "some/other", "-o", tmp_path / "no", HF_ENDPOINT=address
        )
    assert first.returncode == 0, first.stderr
    record = json.loads((tmp_path / "one" / "build.json").read_text())
    source = record["spec"]["source"]
    assert (source["kind"], source["name"]) == ("hub", "some/tiny")
    assert source["revision"] == hub["COMMIT"]
    assert (unknown.returncode, missing.returncode) == (2, 2)
    assert "no revision v9" in unknown.stderr
    assert "there is no some/other" in missing.stderr

    # a commit never changes: once it is in the cache the hub need not answer
    gone = "http://127.0.0.1:9"
    again = edgekit_build(
        *arguments, "-o", tmp_path / "two", "--revision", hub["COMMIT"], HF_ENDPOINT=gone
    )
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")
    # a branch does, and an old copy of it is not taken without a word
    branch = edgekit_build(*arguments, "-o", tmp_path / "no", HF_ENDPOINT=gone)
    assert branch.returncode == 1


def test_help_has_an_example() -> None:
    done = edgekit_build("--help")
    assert done.returncode == 0
    assert "edgekit build --host -m" in done.stdout
    assert "edgekit build --verify phi" in done.stdout

"""The layer of golden prompts where it is packed, without a model."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle import golden
from edgekit.bundle.golden import check_soak, golden_layer, own_runtime, read_golden, recording
from edgekit.core.golden import Golden, GoldenPrompt
from edgekit.core.manifest import GOLDEN_TYPE, TITLE, Descriptor, Manifest
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import BlobStore

PROMPT = GoldenPrompt([1, 2, 3], 2, [3], [2.0], [-0.1], "ab")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "store")
    store.create()
    return store


def manifest(layers: list[Descriptor]) -> Manifest:
    return Manifest(2, "m", "a", Descriptor("c", "sha256:" + "0" * 64, 0), layers)  # type: ignore[arg-type]  # no digest is read


@pytest.mark.parametrize("prompts", [[], [PROMPT]])
@pytest.mark.parametrize("soak", [0.0, 30.0])
def test_the_layer_has_what_was_recorded_and_the_soak(
    store: BlobStore, prompts: list[GoldenPrompt], soak: float
) -> None:
    layers = golden_layer(store, prompts, soak)
    found = read_golden(store, manifest(layers))
    if not prompts and not soak:
        assert (layers, found) == ([], None)
        return
    assert found == Golden(prompts, soak_seconds=soak)
    assert (layers[0].media_type, layers[0].annotations) == (GOLDEN_TYPE, {TITLE: "golden.json"})
    assert golden_layer(store, prompts, soak) == layers
    made = read_golden(store, manifest(golden_layer(store, prompts, soak, "ab")))
    assert made == Golden(prompts, soak_seconds=soak, made_from="ab")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 86401.0])
def test_a_soak_without_meaning_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="--soak"):
        check_soak(seconds)
    check_soak(0.0)
    check_soak(86400.0)


def stand_in(folder: Path, code: str) -> None:
    """A runtime tree in which the agent does something else."""
    (folder / "edgekit" / "agent").mkdir(parents=True)
    (folder / "edgekit" / "__init__.py").touch()
    (folder / "edgekit" / "agent" / "__init__.py").touch()
    (folder / "edgekit" / "agent" / "__main__.py").write_text(code)


def record(folder: Path) -> list[GoldenPrompt]:
    with recording(folder, folder, 64, lambda _: None) as prompts:
        return prompts()


def test_what_the_agent_prints_last_is_the_record(
    tmp_path: Path,
) -> None:
    said = msgspec.json.encode([PROMPT]).decode()
    stand_in(tmp_path, f"print('native noise')\nprint({said!r})")
    assert record(tmp_path) == [PROMPT]


ERROR = '{"error": "E", "what": "the model cannot be loaded", "why": "no memory", "next": ""}'


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (f"import sys\nprint({ERROR!r})\nsys.exit(1)", "the model cannot be loaded: no memory"),
        ("import os\nos.abort()", "it ended with -6: no output"),
        ("import sys\nprint('{', file=sys.stderr)\nsys.exit(3)", "it ended with 3: {"),
        ("print('[1]')", "it ended with 0: no output"),
        ("raise SystemExit", "it ended with 0: no output"),
        ("import sys\nprint('x' * 10**6, file=sys.stderr)\nsys.exit(1)", "xxx"),
    ],
)
def test_a_machine_that_cannot_run_the_model_says_why(tmp_path: Path, code: str, why: str) -> None:
    stand_in(tmp_path, code)
    with pytest.raises(EdgekitError, match="cannot be run on this machine") as refused:
        record(tmp_path)
    assert why in refused.value.why
    assert "--no-golden" in refused.value.next_step


def test_a_model_that_never_answers_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "import time\ntime.sleep(60)")
    monkeypatch.setattr(golden, "RECORD_SECONDS", 0.2)
    with pytest.raises(EdgekitError, match="not recorded in time"):
        record(tmp_path)


def test_the_process_ends_with_a_pack_that_fails(
    tmp_path: Path,
) -> None:
    pid = tmp_path / "pid"
    code = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    stand_in(tmp_path, code)

    def fail() -> None:
        with recording(tmp_path, tmp_path, 64, lambda _: None):
            while not (pid.exists() and pid.read_text()):
                time.sleep(0.02)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_a_machine_without_a_runtime_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(UsageError, match="cannot be recorded on this machine") as refused:
        own_runtime(tmp_path, print)
    assert "--no-golden" in refused.value.next_step

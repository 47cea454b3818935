"""A record of golden prompts is computed once, and again whenever something that decides it
differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import kept_record, pack
from edgekit.bundle.folder import ModelFolder
from edgekit.bundle.kept_record import keep_record, read_record, record_path
from edgekit.core.buildinfo import BuildInfo, FileRecord
from edgekit.core.digest import Digest
from edgekit.core.golden import GoldenPrompt
from edgekit.errors import EdgekitError

PROMPT = GoldenPrompt([1, 2, 3], 2, [3], [2.001], [-0.101], "ab")
AGENT = Digest.of(b"an agent")


def model(sha256: str = "1" * 64, name: str = "model.onnx") -> ModelFolder:
    files = {name: FileRecord(sha256, 1), "LICENSE": FileRecord("2" * 64, 1)}
    return ModelFolder(Path("unread"), BuildInfo("ab", files), (name,), ("LICENSE",))


def at(cache: Path, **other: Any) -> Path:
    same: dict[str, Any] = {"folder": model(), "agent": AGENT, "runtime": "r", "context": 64}
    found = record_path(cache, **(same | other))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "other",
    [
        {"folder": model("3" * 64)},
        {"folder": model(name="other.onnx")},
        {"agent": Digest.of(b"another")},
        {"runtime": "s"},
        {"context": 65},
    ],
)
def test_what_decides_a_record_names_it(tmp_path: Path, other: dict[str, Any]) -> None:
    assert at(tmp_path) == at(tmp_path)
    assert at(tmp_path, **other) != at(tmp_path)


def test_another_kind_of_cpu_records_anew_and_its_clock_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(kept_record, "CPUINFO", info)
    names = []
    for text in ("flags: avx2\ncpu MHz: 1", "flags: avx2\ncpu MHz: 2", "flags: avx512f"):
        info.write_text(text)
        names.append(at(tmp_path))
    assert names[0] == names[1] != names[2]


def test_a_folder_that_nobody_checked_has_no_record(tmp_path: Path) -> None:
    path = record_path(tmp_path, ModelFolder(tmp_path, None, (), ()), AGENT, "r", 64)
    keep_record(path, [PROMPT])
    assert (path, read_record(path), list(tmp_path.iterdir())) == (None, None, [])


@pytest.mark.parametrize("damage", ["", "[{", "{}", "\xff", "[1]"])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, damage: str) -> None:
    path = at(tmp_path)
    keep_record(path, [PROMPT])
    assert read_record(path) == [PROMPT]
    path.write_text(damage, "latin-1")
    assert read_record(path) is None


def test_the_model_is_run_by_the_first_pack_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Path] = []

    @contextmanager
    def recording(runtime: Path, *_: object) -> Iterator[Callable[[], list[GoldenPrompt]]]:
        def prompts() -> list[GoldenPrompt]:
            runs.append(runtime)
            if len(runs) == 1:
                raise EdgekitError("the model cannot be run on this machine")
            return [PROMPT]

        yield prompts

    monkeypatch.setattr(pack, "recording", recording)
    monkeypatch.setattr(pack, "own_runtime", lambda *_, **__: Path("r"))

    def packed(**other: Any) -> list[GoldenPrompt]:
        with pack._golden(
            tmp_path, model(**other), AGENT, 64, lambda _: None, pictures=False
        ) as prompts:
            return prompts()

    with pytest.raises(EdgekitError, match="cannot be run"):
        packed()
    assert [packed(), packed(), len(runs)] == [[PROMPT], [PROMPT], 2]
    assert (packed(sha256="4" * 64), len(runs)) == ([PROMPT], 3)

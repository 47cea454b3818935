"""`edgekit build`: a flag wins over build.toml, and typing errors are refused early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

import msgspec
import pytest

from edgekit.builder.plan.cost import RouteCost
from edgekit.builder.plan.plan import Plan, PlannedModel
from edgekit.builder.request.request import ROUTES, BuildRequest, check_request
from edgekit.builder.run import BuildResult
from edgekit.builder.spec import BuildRecord
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.job import ToolchainSource
from edgekit.builder.tools.progress import ProgressCallback
from edgekit.builder.verify import VerifyResult
from edgekit.cli import main
from edgekit.cli.model.buildfile import BuildFile
from edgekit.errors import UsageError

BOOLEANS = sorted(
    name
    for name, hint in get_type_hints(BuildFile).items()
    if isinstance(hint, UnionType) and bool in get_args(hint)
)
"""The keys of build.toml that are true or false."""

# key: whether the requested build has it
HAS: dict[str, Callable[[BuildRequest, ToolchainSource], bool]] = {
    "host": lambda _, toolchain: isinstance(toolchain, HostToolchain),
    "trust_remote_code": lambda request, _: request.trust_remote_code,
}

Asked = tuple[BuildRequest, ToolchainSource]


def edgekit_build(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The exit code of the command."""
    monkeypatch.setattr("sys.argv", ["edgekit", "build", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """Runs the command with a build.toml and flags; returns the request that it would build."""
    asked: list[Asked] = []

    def run_build(
        request: BuildRequest, _: ProgressCallback, toolchain: ToolchainSource
    ) -> BuildResult:
        asked.append((request, toolchain))
        return BuildResult(request.out, "ab" * 32, {}, 0, 0.0, 0.0, 0, True)

    def run(written: str, *flags: str) -> Asked:
        file = tmp_path / "build.toml"
        file.write_text(f'model = "org/name"\noutput = "out"\n{written}')
        assert edgekit_build(monkeypatch, str(file), *flags) == 0
        return asked[-1]

    monkeypatch.setattr("edgekit.cli.model.build.run_build", run_build)
    return run


def test_every_boolean_of_build_toml_is_looked_at_here() -> None:
    assert sorted(HAS) == BOOLEANS


@pytest.mark.parametrize("key", BOOLEANS)
@pytest.mark.parametrize(
    ("written", "flag", "expected"),
    [
        ("", "", False),
        ("", "--", True),
        ("", "--no-", False),
        ("true", "", True),
        ("true", "--", True),
        ("true", "--no-", False),
        ("false", "", False),
        ("false", "--", True),
        ("false", "--no-", False),
    ],
)
def test_a_flag_wins_over_what_build_toml_says(
    ask: Callable[..., Asked], key: str, written: str, flag: str, expected: bool
) -> None:
    name = key.replace("_", "-")
    found = ask(f"{name} = {written}\n" if written else "", *([flag + name] if flag else []))
    assert HAS[key](*found) is expected


def test_an_option_on_the_command_line_replaces_the_files(ask: Callable[..., Asked]) -> None:
    written = "[extra-options]\nblock_size = 32\nshared_embeddings = true\n"
    request, _ = ask(written, "-x", "block_size=64", "-x", "accuracy_level=4")
    assert request.options == ("shared_embeddings=true", "block_size=64", "accuracy_level=4")


def test_a_recipe_on_the_command_line_leaves_the_files_budget_behind(
    ask: Callable[..., Asked],
) -> None:
    written = 'recipe = "auto"\nbudget = "2GB"\n'
    assert ask(written)[0].budget_bytes == 2_000_000_000
    assert ask(written, "--recipe", "auto")[0].budget_bytes == 2_000_000_000
    request, _ = ask(written, "--recipe", "plain")
    assert (request.recipe, request.budget_bytes) == ("plain", None)


def test_a_model_on_the_command_line_leaves_the_files_revision_behind(
    ask: Callable[..., Asked],
) -> None:
    written = 'revision = "v1"\n'
    assert ask(written)[0].revision == "v1"
    assert ask(written, "-m", "org/name")[0].revision == "v1"
    assert ask(written, "-m", "org/other")[0].revision is None
    assert ask(written, "-m", "org/other", "--revision", "v2")[0].revision == "v2"


@pytest.mark.parametrize("written", ["context = 0\n", "context = -1\n"])
def test_a_context_below_one_token_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: str,
) -> None:
    file = tmp_path / "build.toml"
    file.write_text(written)
    code = edgekit_build(monkeypatch, str(file), "-m", "org/name", "-o", "out")
    assert code == UsageError.exit_code
    assert "context" in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--plan",), ("-o", "out"), ("--verify", ".")])
def test_a_way_that_does_not_exist_is_refused_before_anything_is_fetched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    fetched: list[str] = []
    for place in ("edgekit.builder.source.find._fetch", "edgekit.builder.plan.gather._hub"):
        monkeypatch.setattr(place, lambda *_: fetched.append("model"))
    code = edgekit_build(monkeypatch, "-m", "org/name", "--path", "low-memroy", *more)
    assert code == UsageError.exit_code
    error = capsys.readouterr().err
    assert "low-memroy" in error
    assert all(way in error for way in ROUTES)
    assert not fetched


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--gate", "strikt"), "strikt"),
        (("--threshold", "mean_kll=0.1"), "mean_kll"),
        (("-p", "int5"), "int5"),
        (("-e", "npu"), "npu"),
        (("--recipe", "k-quont"), "k-quont"),
        (("-x", "block_sice=32"), "block_sice"),
        (("--budget", "2GB"), "--budget"),
    ],
)
@pytest.mark.parametrize("more", [("--plan",), ("-o", "out")])
def test_a_flag_that_cannot_be_meant_is_refused_before_anything_is_fetched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[str, ...],
    named: str,
    more: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    fetched: list[str] = []
    for place in ("edgekit.builder.source.find._fetch", "edgekit.builder.plan.gather._hub"):
        monkeypatch.setattr(place, lambda *_: fetched.append("model"))
    code = edgekit_build(monkeypatch, "-m", "org/name", *wrong, *more)
    assert code == UsageError.exit_code
    assert named in capsys.readouterr().err
    assert not fetched


@pytest.mark.parametrize("way", ROUTES)
def test_every_way_through_the_builder_is_taken(way: str) -> None:
    assert check_request(BuildRequest("m", Path("out"), route=way)).precision == "int4"


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (BuildRecord, {"path", "asked", "recipe", "gate"}),
        (BuildResult, {"path", "trials", "recipe", "gate"}),
        (VerifyResult, {"path", "first_path", "isolation", "first_isolation"}),
        (Plan, {"rows", "model", "supported"}),
        (PlannedModel, {"path", "ways", "devices", "recipe"}),
        (RouteCost, {"path", "peak_rss_bytes", "needs_bytes", "disk_bytes"}),
    ],
)
def test_the_keys_of_json_keep_their_spelling(kind: type[msgspec.Struct], keys: set[str]) -> None:
    written = {field.encode_name for field in msgspec.structs.fields(kind)}
    assert keys <= written
    assert not written & {"route", "routes", "first_route", "recipe_results"}

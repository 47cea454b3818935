"""The benchmarks' names, lines and tables; nothing is measured."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import render
from benchmarks.figure import Figure, Result, registered
from benchmarks.models import find_model
from edgekit.errors import EdgekitError, UsageError

NAMES = {
    "agent.decode_ratio",
    "agent.sampling_us",
    "agent.schema_ratio",
    "agent.schema_greedy_ratio",
    "agent.schema_keys_ratio",
    "agent.schema_first_token_ms",
    "agent.schema_llamacpp_ratio",
    "agent.first_token_added_ms",
    "agent.parent_rss_mb",
    "agent.idle_cpu_percent",
    "agent.second_turn_ratio",
    "agent.second_picture_ratio",
    "agent.late_first_token_ratio",
    "agent.late_pause_ms",
    "agent.four_streams_ratio",
    "agent.threads_ratio",
    "agent.llamacpp_ratio",
    "agent.pruned_head_ratio",
    "build.cpu_ratio",
    "build.peak_rss_gib",
    "push.again_bytes",
    "push.again_seconds",
    "push.rsync_ratio",
    "push.rsync_cpu_ratio",
    "push.scp_ratio",
    "push.fabric_ratio",
    "push.mb_per_second",
    "push.rtt80_scp_ratio",
    "push.rtt80_session_ratio",
    "push.ten_scp_ratio",
    "push.ten_rss_mb",
    "push.ten_again_seconds",
    "device.boot_seconds",
    "device.verify_ms",
    "demo.cold_seconds",
    "demo.warm_seconds",
    "device.trial_seconds",
    "gateway.added_ms",
    "gateway.decode_ratio",
}
LINE = re.compile(
    r"(?P<name>[a-z]+\.[a-z0-9_]+) (?P<value>-?[0-9.]+) (?P<unit>\S+) "
    r"\(against (?P<against>.+), (?P<runs>\d+) runs?, (?P<low>-?[0-9.]+?)\.\.(?P<high>-?[0-9.]+)\)"
)
HERE = {
    "cpu": "a CPU",
    "cpus": 2,
    "load_before": 0.1,
    "model": "smollm2",
    "edgekit": "0.1",
    "day": "2026-11-22",
}


def result(*samples: float, name: str = "agent.decode_ratio") -> Result:
    """A result that nobody measured."""
    return Result(Figure(name, "what it is", "ratio", "bare, in turns", lambda _: []), samples)


def test_names_of_figures_are_stable(capsys: pytest.CaptureFixture[str]) -> None:
    benchmarks.run(["--list"])
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == NAMES


def test_a_figure_that_cannot_be_measured_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object) -> list[float]:
        raise EdgekitError("it is not there")

    figures = [
        Figure("a.bad", "what it is", "ratio", "bare", fails),
        Figure("a.good", "what it is", "ratio", "bare", lambda _: [1.0, 2.0, 3.0]),
    ]
    monkeypatch.setattr(benchmarks, "_chosen", lambda _: figures)
    with pytest.raises(EdgekitError, match=r"not measured: a\.bad"):
        benchmarks.run([])
    said = capsys.readouterr()
    assert said.out.startswith("a.good 2 ratio")
    assert "a.bad: it is not there" in said.err


def test_where_nothing_could_be_measured_the_tables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> list[float]:
        raise EdgekitError("it is not there")

    monkeypatch.setattr(
        benchmarks, "_chosen", lambda _: [Figure("a.bad", "what it is", "ratio", "bare", fails)]
    )
    before = [path.read_bytes() for path in benchmarks.TABLES]
    with pytest.raises(EdgekitError, match="not measured"):
        benchmarks.run(["--write"])
    assert [path.read_bytes() for path in benchmarks.TABLES] == before


@pytest.mark.parametrize("figure", registered().values(), ids=lambda figure: figure.name)
def test_every_figure_explains_itself(figure: Figure) -> None:
    assert figure.what
    assert figure.against
    assert re.fullmatch(r"\S{1,6}", figure.unit)
    assert figure.measure.__doc__


@pytest.mark.parametrize(
    ("samples", "value", "low", "high", "runs"),
    [
        ((0.97, 0.993, 0.98), "0.980", "0.970", "0.993", "3"),
        ((-1.25, 4.0, 21.93), "4", "-1.25", "21.9", "3"),
        ((0, 0), "0", "0", "0", "2"),
        ((123456.7,), "123457", "123457", "123457", "1"),
    ],
)
def test_a_line_can_be_parsed(
    samples: tuple[float, ...], value: str, low: str, high: str, runs: str
) -> None:
    found = LINE.fullmatch(render.line(result(*samples)))
    assert found is not None
    assert found["name"] == "agent.decode_ratio"
    assert found["against"] == "bare, in turns"
    assert (found["value"], found["low"], found["high"], found["runs"]) == (value, low, high, runs)


def test_json_has_every_sample() -> None:
    text = render.as_json([result(3.0, 1.0, 2.0)], HERE)
    figure = json.loads(text)["figures"][0]
    assert (figure["value"], figure["samples"]) == (2.0, [3.0, 1.0, 2.0])


def test_rewriting_a_table_twice_changes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"above\n{render.BEGIN}\nold\n{render.END}\nbelow\n")
    table = render.table([result(1.0, 2.0)], HERE)
    render.rewrite([path], table)
    once = path.read_text()
    assert once.startswith(f"above\n{render.BEGIN}\n| figure |")
    assert once.endswith(f"{render.END}\nbelow\n")
    assert "old" not in once
    render.rewrite([path], table)
    assert path.read_text() == once


@pytest.mark.parametrize(
    "text",
    ["no markers", render.BEGIN, f"{render.END}\n{render.BEGIN}", 2 * (render.BEGIN + render.END)],
)
def test_a_file_without_its_markers_is_named_and_none_is_changed(tmp_path: Path, text: str) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text(f"{render.BEGIN}\n{render.END}\n")
    bad.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.md"):
        render.rewrite([good, bad], "new")
    assert good.read_text() == f"{render.BEGIN}\n{render.END}\n"


def test_a_run_of_some_figures_changes_their_rows_and_says_when_it_was() -> None:
    old = render.table([result(1.0), result(5.0, name="push.again_seconds")], HERE)
    later = [result(3.0, name="push.again_seconds"), result(7.0, name="device.boot_seconds")]
    new = render.merged(old, later, HERE | {"day": "2026-12-24"})
    rows = {row.split("`")[1]: row for row in new.splitlines() if row.startswith("| `")}
    assert list(rows) == ["agent.decode_ratio", "push.again_seconds", "device.boot_seconds"]
    assert "| 1 ratio |" in rows["agent.decode_ratio"]
    assert "| 3 ratio |" in rows["push.again_seconds"]
    *_, whole, some = (line for line in new.splitlines() if line)
    assert whole.endswith("2026-11-22.")
    assert some.startswith("`push.again_seconds`, `device.boot_seconds`: a CPU")
    assert some.endswith("2026-12-24.")
    assert render.merged(new, later, HERE | {"day": "2026-12-24"}) == new, "twice is as once"


@pytest.mark.parametrize("arguments", [["agent.no_such"], ["--rounds", "0"]])
def test_wrong_arguments_are_refused_before_anything_is_measured(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        benchmarks.run(arguments)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UsageError, match="phi36"):
        find_model("phi36")


def test_commands_that_are_measured_keep_their_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container forbade it: a second push of ten devices compiled the controller each time."""
    seen: list[str | None] = []
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(
        benchmarks, "run", lambda: seen.append(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    )
    benchmarks.main()
    assert seen == [None]

"""Results as people and programs read them; nothing here measures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, Result
from edgekit.errors import UsageError

HEAD = "| figure | what | median | min..max | against |\n|---|---|---|---|---|\n"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def number(value: float) -> str:
    """Three digits that count, without an exponent; whole numbers as such."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 - (abs(value) >= 10) + (abs(value) < 1)}f}"


def runs(result: Result) -> str:
    """How many samples: `1 run`, `5 runs`."""
    count = len(result.samples)
    return f"{count} run" if count == 1 else f"{count} runs"


def spread(result: Result) -> str:
    """`min..max` of the samples."""
    return f"{number(min(result.samples))}..{number(max(result.samples))}"


def line(result: Result) -> str:
    """`NAME VALUE UNIT (against WHAT, N runs, min..max)`."""
    figure = result.figure
    return (
        f"{figure.name} {number(result.value)} {figure.unit} "
        f"(against {figure.against}, {runs(result)}, {spread(result)})"
    )


def listing(figures: Iterable[Figure]) -> str:
    """One figure per line: name, unit and what it is."""
    return "\n".join(f"{f.name:<28} {f.unit:<6} {f.what}" for f in figures)


def as_json(results: Sequence[Result], circumstances: dict[str, Any]) -> str:
    """One object: the circumstances, and every figure with its samples."""
    figures = [
        {
            "name": r.figure.name,
            "what": r.figure.what,
            "unit": r.figure.unit,
            "against": r.figure.against,
            "value": r.value,
            "samples": list(r.samples),
        }
        for r in results
    ]
    return json.dumps({**circumstances, "figures": figures}, indent=2)


def table(results: Sequence[Result], circumstances: dict[str, Any]) -> str:
    """A table in Markdown, and below it where and when it was measured."""
    rows = [_row(result) for result in results]
    return HEAD + "\n".join(rows) + f"\n\n{_where(circumstances)}"


def merged(old: str, results: Sequence[Result], circumstances: dict[str, Any]) -> str:
    """The table `old` with the rows of a run of some figures; a line below names that run."""
    body, _, below = old.strip().removeprefix(HEAD).partition("\n\n")
    rows = {_name(row): row for row in body.splitlines()}
    rows |= {f"`{result.figure.name}`": _row(result) for result in results}
    names = ", ".join(f"`{result.figure.name}`" for result in results)
    lines = [line for line in below.splitlines() if line and not line.startswith(f"{names}: ")]
    lines.append(f"{names}: {_where(circumstances)}")
    return HEAD + "\n".join(rows.values()) + "\n\n" + "\n\n".join(lines)


def _name(row: str) -> str:
    return row.split("|")[1].strip()


def _row(result: Result) -> str:
    return (
        f"| `{result.figure.name}` | {result.figure.what} "
        f"| {number(result.value)} {result.figure.unit} "
        f"| {spread(result)}, {runs(result)} | {result.figure.against} |"
    )


def _where(circumstances: dict[str, Any]) -> str:
    return (
        "{cpu}, {cpus} CPUs, load average before {load_before}; "
        "model {model}; edgekit {edgekit}; {day}."
    ).format(**circumstances)


def read_table(path: Path) -> str:
    """What is between the markers of a file."""
    return path.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def replace_table(text: str, new: str) -> str:
    """`text` with `new` between its markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"it needs one {BEGIN} and, below it, one {END}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def rewrite(paths: Sequence[Path], new: str) -> None:
    """Put `new` between the markers of every file, or change none of them.

    Raises:
        UsageError: a file is missing or has no markers.
    """
    texts = {}
    for path in paths:
        try:
            texts[path] = replace_table(path.read_text("utf-8"), new)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot take the figures", str(error)) from error
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def check(paths: Sequence[Path]) -> None:
    """Raises: UsageError when `rewrite` would; asked before minutes of measuring."""
    for path in paths:
        try:
            replace_table(path.read_text("utf-8"), "")
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot take the figures", str(error)) from error

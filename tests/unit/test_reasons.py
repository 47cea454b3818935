"""Where a checker is told to look away, the reason stands beside it."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("edgekit", "tests", "benchmarks", "docs")

_WAIVER = re.compile(r"noqa(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?|type:\s*ignore(?:\[[\w\s,-]*\])?")
_REASON = re.compile(r"\w{2,}")


def without_reason(path: Path) -> Iterator[str]:
    """`line: comment` of each waiver of a file that no word follows."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type != tokenize.COMMENT:
                continue
            # what stands behind a waiver, up to the next one
            said = _WAIVER.split(token.string)[1:]
            if not all(_REASON.search(text) for text in said):
                yield f"{token.start[0]}: {token.string}"


def test_every_waiver_has_its_reason_beside_it() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    missing = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(files)
        for line in without_reason(path)
    ]
    assert not missing, "\n".join(missing)


# put together here: this file is read by the test, too
NOQA, IGNORE = "# no" + "qa", "# type: ig" + "nore"


@pytest.mark.parametrize(
    ("comment", "count"),
    [
        (NOQA, 1),
        (f"{NOQA}: S311", 1),
        (f"{NOQA}: S311  no secret", 0),
        (f"{NOQA}: S311 (no secret)", 0),
        (f"{NOQA}: PLR0911, PLR0912  one case each", 0),
        (f"{NOQA}: PLR0911, PLR0912", 1),
        (f"# ruff: {NOQA[2:]}: PLC0415", 1),
        (f"{IGNORE}[arg-type]", 1),
        (f"{IGNORE}[method-assign,assignment]", 1),
        (f"{IGNORE}[arg-type]  # both are", 0),
        (f"{IGNORE}[arg-type]  {NOQA}: S311  no secret", 1),
        (f'"{NOQA}: S311"  # text is none', 0),
    ],
)
def test_a_waiver_without_a_reason_is_found(tmp_path: Path, comment: str, count: int) -> None:
    file = tmp_path / "one.py"
    file.write_text(f"x = 1, {comment}\n" if comment.startswith('"') else f"x = 1  {comment}\n")
    assert len(list(without_reason(file))) == count

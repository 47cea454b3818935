"""Each promise of docs/promises.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "promises.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:42])
def test_what_shows_a_promise_is_there(row: str) -> None:
    shown = row.rstrip("| ").rpartition(" | ")[2]
    named = re.findall(r"`([^`]*)`", shown)
    assert named
    for name in named:
        if re.fullmatch(r"tests/[\w/*.]+", name):
            assert list(ROOT.glob(name)), name
        elif name.endswith(".py"):
            assert list(ROOT.glob(f"tests/*/{name}")), name
        elif name.startswith("python -m tests.show "):
            module = name.split()[3].replace("-", "_")
            assert (ROOT / "tests" / "show" / f"{module}.py").is_file(), name


def test_the_links_of_the_promises_lead_somewhere() -> None:
    for row in ROWS:
        for link in re.findall(r"\]\(([^)#]+)", row):
            assert (ROOT / "docs" / link).is_file(), link

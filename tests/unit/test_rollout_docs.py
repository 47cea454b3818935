"""docs/rollout.md says what the code does: its tables and its example are compared with it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgekit.cli.rollout.lines import SHOWN, status_lines
from edgekit.cli.verbs import VERBS
from edgekit.fleet.rollout.device import DeviceState, table
from edgekit.fleet.rollout.journal import RolloutRow
from edgekit.fleet.rollout.report.picture import MOST_ROWS, MOST_TROUBLED
from edgekit.fleet.rollout.settings import RolloutSettings
from edgekit.fleet.rollout.telling.told import tell
from tests.fakes import rollout_stories as stories

TEXT = (Path(__file__).parents[2] / "docs" / "rollout.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def example() -> str:
    made = stories.bad_canary()
    rows = [RolloutRow(at, event, "") for event, at in made.journal]
    told = tell(3, made.rollout, rows, "", "")
    return "\n".join(str(line) for line in status_lines(told, "smollm2:2", 4))


def test_the_table_of_device_moves_is_the_machine_s() -> None:
    assert f"\n{table()}\n" in TEXT
    assert all(state in TEXT for state in DeviceState)


def test_the_example_of_a_status_is_what_the_code_prints() -> None:
    assert f"```\n$ edgekit status 3\n{example()}\n```" in TEXT


def test_the_table_of_terms_has_every_key_with_its_default() -> None:
    told: dict[str, object] = {}
    for line in TEXT.partition("## The terms")[2].partition("### Windows")[0].splitlines():
        if line.startswith("| `"):
            keys, default = line.split("|")[1:3]
            told |= dict.fromkeys(re.findall(r"`(\w+)`", keys), json.loads(default))
    defaults = msgspec.to_builtins(RolloutSettings())
    assert told == defaults


def test_each_verb_of_a_rollout_is_described() -> None:
    verbs = [verb for verb, place in VERBS.items() if place.startswith("rollout.")]
    assert len(verbs) == 8
    assert all(f"`edgekit {verb}" in TEXT for verb in verbs)


def test_the_numbers_of_the_text_are_those_of_the_code() -> None:
    assert f"Up to {MOST_ROWS} devices have a row each" in TEXT
    assert f"up to {MOST_TROUBLED} devices that failed" in TEXT
    assert f"It has {SHOWN} lines" in TEXT

"""The counts of a fleet in the size of a test; `python -m tests.show` runs them in full."""

from __future__ import annotations

from tests.show import fleet_thousand, pull_fleet


def test_a_simulated_rollout_holds_its_bound_and_its_journal_replays() -> None:
    figures, sound = fleet_thousand.counted(60, 3, 3)
    assert sound, figures
    assert figures["were_away"] == 3


def test_a_simulated_fleet_that_pulls_ends_where_it_must_by_a_real_broker() -> None:
    figures, sound = pull_fleet.counted(60, 1, 3, 20)
    assert sound, figures
    assert figures["told_to_join"] == 3

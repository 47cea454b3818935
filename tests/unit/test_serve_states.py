"""The table of a prompt's life: complete, and in the documentation as it is in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.serve.states import TRANSITIONS, State, Step, move, table

ENDS = {State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED}


def test_the_documentation_prints_the_table_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol" / "README.md").read_text()
    assert f"\n{table()}\n" in text


def test_nothing_follows_an_end_and_everything_else_can_reach_one() -> None:
    assert not {state for state, _ in TRANSITIONS} & ENDS
    assert {state for state, _ in TRANSITIONS} | ENDS == {None, *State}
    assert set(TRANSITIONS.values()) == set(State)
    assert {step for _, step in TRANSITIONS} == set(Step)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_an_end_has_no_next_step(end: State) -> None:
    for step in Step:
        with pytest.raises(KeyError):
            move(end, step)

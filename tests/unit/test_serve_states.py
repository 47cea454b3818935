"""The tables of a prompt's life and of its outcome's delivery: complete, and in the documentation
as they are in the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgekit.agent.serve.session import session
from edgekit.agent.serve.session.prompt import JournalRow, Outcome, Prompt
from edgekit.agent.serve.session.states import (
    DELIVERIES,
    TRANSITIONS,
    Delivery,
    DeliveryStep,
    PromptStep,
    State,
    deliver,
    delivery_table,
    move,
    table,
)
from edgekit.core.protocol import wire

ENDS = {State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED}


def test_the_documentation_prints_the_table_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol" / "README.md").read_text()
    assert f"\n{table()}\n" in text


def test_nothing_follows_an_end_and_everything_else_can_reach_one() -> None:
    assert not {state for state, _ in TRANSITIONS} & ENDS
    assert {state for state, _ in TRANSITIONS} | ENDS == {None, *State}
    assert set(TRANSITIONS.values()) == set(State)
    assert {step for _, step in TRANSITIONS} == set(PromptStep)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_an_end_has_no_next_step(end: State) -> None:
    for step in PromptStep:
        with pytest.raises(KeyError):
            move(end, step)


def test_the_documentation_prints_the_table_of_deliveries_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol" / "README.md").read_text()
    assert f"\n{delivery_table()}\n" in text


def test_every_delivery_can_be_reached_and_can_end_with_the_broker() -> None:
    assert {step for _, step in DELIVERIES} == set(DeliveryStep)
    assert set(DELIVERIES.values()) == set(Delivery)
    assert all(to != before for (before, _), to in DELIVERIES.items()), "a row that changes nothing"
    for delivery in Delivery:
        assert deliver(delivery, DeliveryStep.ACKNOWLEDGED) == Delivery.SENT


def test_what_was_sent_is_sent_again_to_another_address_alone() -> None:
    sent = {step for step in DeliveryStep if deliver(Delivery.SENT, step) != Delivery.SENT}
    assert sent == {DeliveryStep.READDRESSED}


def test_the_ledger_alone_changes_a_delivery() -> None:
    writers = []
    for file in sorted(Path(session.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
                continue
            if node.attr in ("delivery", "retry_at"):
                writers.append(file.stem)
    assert set(writers) == {"ledger"}


@pytest.mark.parametrize("sent", [False, True])
def test_the_journal_s_rows_know_what_was_sent_and_nothing_else_of_a_delivery(sent: bool) -> None:
    reply = wire.ReplyTo("edgekit/v1/res/alice/1", b"c", "p1", "pi", final_only=False)
    outcome = Outcome("final", "", 200, b"{}")
    row = JournalRow(
        *("alice/p1", "alice", State.DONE, reply, b"h", b"", 1.0, 2.0, 3.0, 1, 0), outcome, sent
    )
    job = Prompt.restore(row)
    assert job.delivery == (Delivery.SENT if sent else Delivery.UNSENT)
    assert job.row() == row
    for step in DeliveryStep:
        job.delivery = deliver(job.delivery, step)
        assert job.row().sent is (job.delivery == Delivery.SENT)

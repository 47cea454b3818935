"""The limits of agent.toml: how often, how much in, how much out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from edgekit.agent.serve.pipe import Start
from edgekit.agent.serve.session.events import Connected, Effect, Forget, Publish, Record, Tick
from edgekit.client.asking import Asking, Do
from edgekit.core.config import AgentConfig, BrokerConfig, agent_config, parse_agent_config
from edgekit.core.protocol.wire import MAX_ERROR_CHARS, Card
from edgekit.errors import UsageError
from edgekit.fleet.inventory import Device
from tests.harness.session import BODY, CARD, Agent, error, kinds, replies, to_worker

LIMITS = {
    "requests_per_minute": 7,
    "max_messages": 8,
    "max_prompt_tokens": 9,
    "max_answer_tokens": 10,
}


def conversation(messages: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Hi"}] * messages}


def test_who_asks_too_often_is_told_when_to_come_back_to_the_millisecond() -> None:
    agent = Agent(limits={"requests_per_minute": 2}, queue_limit=8).ready()
    for prompt_id in ("p1", "p2"):
        assert kinds(agent.prompt(prompt_id)) == ["accepted"]
    refused = error(agent.prompt("p3"))
    assert (refused["code"], refused["retry_after_ms"]) == ("rate_limited", 30_000)
    assert kinds(agent.prompt("p1", who="bob")) == ["accepted"]
    agent.now += 29.999
    assert error(agent.prompt("p3"))["retry_after_ms"] == 1
    agent.now += 0.001
    assert kinds(agent.prompt("p3")) == ["accepted"]


def test_a_prompt_that_is_known_does_not_count() -> None:
    agent = Agent(limits={"requests_per_minute": 2}).ready()
    for _ in range(5):
        assert kinds(agent.prompt("p1")) == ["accepted"]  # it attaches
    agent.finishes()
    for _ in range(5):
        assert kinds(agent.prompt("p1")) == ["final"]  # the stored one
    assert kinds(agent.prompt("p2")) == ["accepted"]


def test_a_prompt_that_is_refused_counts() -> None:
    agent = Agent(limits={"requests_per_minute": 2}).ready()
    codes = [error(agent.prompt(f"p{n}", payload=b"{"))["code"] for n in range(3)]
    assert codes == ["invalid_request", "invalid_request", "rate_limited"]


# --- repeats and controls ---------------------------------------------------------------------
ASK: dict[str, Any] = {"response_topic": "edgekit/v1/res/alice/q", "correlation": b"q"}


def records(effects: tuple[Effect, ...]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, Record | Forget)]


def test_a_repeat_writes_to_the_journal_only_what_is_not_there_yet() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    agent.handle(Tick())
    for prompt_id in ("p1", "p2"):
        again = agent.prompt(prompt_id)
        assert kinds(again) == ["accepted"]
        assert records(again) == []
    assert records(agent.handle(Tick(), after=0.5)) == []
    assert len(records(agent.prompt("p2", correlation=b"new"))) == 1
    assert records(agent.prompt("p2", correlation=b"new")) == []


def test_a_stored_outcome_that_is_told_again_is_not_written_again() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.acknowledged(agent.finishes())
    agent.handle(Tick(), after=0.5)
    for ask in (agent.prompt, agent.query, agent.cancel):
        again = ask("p1")
        assert kinds(again) == ["final"]
        told = (*again, *agent.acknowledged(again), *agent.handle(Tick(), after=0.5))
        assert records(told) == []
    agent.acknowledged(agent.prompt("p1", correlation=b"new"))
    agent.handle(Tick(), after=0.5)
    assert agent.disk["alice/p1"].reply.correlation == b"new"
    assert agent.disk["alice/p1"].sent


@pytest.mark.parametrize(("per_minute", "repeats"), [(2, 120), (100, 400)])
def test_repeats_are_bounded_by_themselves_and_cost_no_prompt(
    per_minute: int, repeats: int
) -> None:
    agent = Agent(limits={"requests_per_minute": per_minute}).ready()
    agent.prompt("p1")
    for _ in range(repeats - 1):
        assert kinds(agent.prompt("p1")) == ["accepted"]
    assert error(agent.prompt("p1", body=conversation(2)))["code"] == "id_conflict"
    for body in (None, conversation(2)):
        refused = error(agent.prompt("p1", body=body))
        assert (refused["code"], refused["retry_after_ms"]) == ("rate_limited", 60_000 // repeats)
    assert kinds(agent.prompt("p2")) == ["accepted"]
    assert kinds(agent.prompt("p1", who="bob")) == ["accepted"]
    assert kinds(agent.prompt("p1", who="bob")) == ["accepted"]
    agent.now += 60 / repeats
    assert kinds(agent.prompt("p1")) == ["accepted"]
    assert kinds(agent.finishes()) == ["final"], "what was refused ended nothing"


def test_controls_that_are_too_many_are_as_if_they_were_lost() -> None:
    agent = Agent(limits={"requests_per_minute": 2}).ready()
    agent.prompt("p1")
    for number in range(60):
        assert kinds(agent.query("p1", **ASK)) == ["state"]
        assert kinds(agent.query(f"q{number}", **ASK)) == ["state"]
    ignored = agent.ignored
    assert kinds(agent.query("p1", **ASK)) == []
    assert to_worker(agent.cancel("p1")) == []
    assert agent.ignored == ignored + 2
    bob = {"response_topic": "edgekit/v1/res/bob/q"}
    assert kinds(agent.query("p1", "bob", **bob)) == ["state"]
    agent.now += 0.5
    assert len(to_worker(agent.cancel("p1"))) == 1


def test_without_a_limit_there_is_none_of_repeats_and_controls() -> None:
    agent = Agent().ready()
    for _ in range(1000):
        assert kinds(agent.prompt("p1")) == ["accepted"]
        assert kinds(agent.query("p1", **ASK)) == ["state"]


def test_who_keeps_to_the_rules_of_a_requester_never_meets_the_limit_of_repeats() -> None:
    """Thirty prompts at once whose first replies are lost; then they wait for ten minutes."""
    limits = {"requests_per_minute": 30}
    agent = Agent(limits=limits, queue_limit=30, requester_limit=30).ready()
    open_ones = {f"p{n}": Asking(agent.now + 3600, "pi") for n in range(30)}
    silent: dict[str, Any] = {"expiry_seconds": 3600, "body": BODY | {"stream": False}}
    counted = Counter[Do]()
    for _ in range(600):
        agent.now += 1
        for prompt_id, asking in open_ones.items():
            do, _ = asking.next(agent.now, 0.0)  # no pause is shorter
            if do is None:
                continue
            counted[do] += 1
            correlation = str(counted.total()).encode()
            if do is Do.SEND:
                said = agent.prompt(prompt_id, correlation=correlation, **silent)
            else:
                said = agent.query(prompt_id, **ASK)
            assert kinds(said) == ["accepted" if do is Do.SEND else "state"]
            if asking.attempts > 2:
                asking.reply("pi", agent.now)
    assert counted[Do.SEND] == 3 * 30
    assert counted[Do.QUERY] > 30 * 30
    assert sum(kinds(agent.cancel(prompt_id)) == ["final"] for prompt_id in open_ones) == 29


# --- what a prompt may hold -------------------------------------------------------------------
def test_more_messages_than_the_device_takes_are_refused_by_the_limit_s_name() -> None:
    agent = Agent(limits={"max_messages": 3}).ready()
    refused = error(agent.prompt("p1", body=conversation(4)))
    assert (refused["code"], refused["param"]) == ("invalid_request", "messages")
    assert "max_messages" in refused["message"]
    assert kinds(agent.prompt("p2", body=conversation(3))) == ["accepted"]


def test_the_device_s_cap_of_an_answer_holds_below_the_bundle_s() -> None:
    for wanted, device, given in ((None, 20, 20), (7, 20, 7), (50, 20, 20), (None, 500, 100)):
        agent = Agent(limits={"max_answer_tokens": device}).ready()
        (start,) = to_worker(agent.prompt(body=BODY | {"max_tokens": wanted}))
        assert isinstance(start, Start)
        assert start.answer_limit == given


def test_the_worker_is_told_the_limit_of_prompt_tokens() -> None:
    agent = Agent(limits={"max_prompt_tokens": 9}).ready()
    (start,) = to_worker(agent.prompt())
    assert isinstance(start, Start)
    assert start.prompt_limit == 9


def test_the_card_shows_the_limits() -> None:
    agent = Agent(limits=LIMITS).ready()
    effects = agent.handle(Connected())
    (card,) = (e.message for e in effects if isinstance(e, Publish) and e.message.topic == CARD)
    assert json.loads(card.payload).items() >= LIMITS.items()
    agent = Agent()
    effects = agent.handle(Connected())
    (card,) = (e.message for e in effects if isinstance(e, Publish) and e.message.topic == CARD)
    assert json.loads(card.payload)["max_answer_tokens"] == 100  # the bundle's


def test_a_card_of_an_agent_that_had_no_limits_is_read() -> None:
    fields = ("device", "release", "model", "version", 1, 2, 3, "agent")
    card = Card(*fields)
    assert (card.requests_per_minute, card.max_messages, card.max_prompt_tokens) == (0, 1024, 0)


def test_fleet_toml_s_limits_come_to_agent_toml() -> None:
    config = agent_config("pi", BrokerConfig(), Device("local:x", **LIMITS))  # type: ignore[arg-type]  # all of them are integers
    assert {name: getattr(config, name) for name in LIMITS} == LIMITS
    defaults = agent_config("pi", BrokerConfig(), Device("local:x"))
    assert defaults == AgentConfig("pi")


@pytest.mark.parametrize(
    "line",
    [
        "requests_per_minute = -1",
        "max_messages = 0",
        "max_messages = 1025",
        "max_prompt_tokens = -1",
        "max_answer_tokens = -1",
    ],
)
def test_a_limit_that_makes_no_sense_is_named(line: str) -> None:
    with pytest.raises(UsageError, match=r"agent\.toml") as caught:
        parse_agent_config(f'device = "pi"\n{line}\n'.encode())
    assert line.partition(" ")[0] in caught.value.why


def test_an_error_that_repeats_what_was_sent_stays_small() -> None:
    agent = Agent().ready()
    (message,) = replies(agent.prompt(body=BODY | {"x" * 100_000: 1}))
    assert len(message.payload) < 3 * MAX_ERROR_CHARS

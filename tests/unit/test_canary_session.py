"""Which prompts a device may keep for the canary, and what its card and status say of it."""

from __future__ import annotations

import json

import pytest

from edgekit.agent.serve.pipe import Ready, Start
from edgekit.agent.serve.session.events import Connected, Effect, Publish, QualityKnown
from edgekit.core.protocol import topics
from edgekit.core.quality import QualityReport, QualityScore
from tests.harness.session import Agent, to_worker

REPORT = QualityReport("sha256:r", "sha256:q", QualityScore(4, 1, 9, 8, 0.9, 0.1, 1.0, 0.0))


def said(effects: tuple[Effect, ...], topic: str) -> dict[str, object]:
    found = [e.message for e in effects if isinstance(e, Publish) and e.message.topic == topic]
    return dict(json.loads(found[-1].payload))


@pytest.mark.parametrize(
    ("keeps", "store", "kept"),
    [(0, None, False), (5, None, True), (5, True, True), (5, False, False), (0, True, False)],
)
def test_operator_and_requester_have_to_allow_it(
    keeps: int, store: bool | None, kept: bool
) -> None:
    agent = Agent(limits={"canary_samples": keeps}).ready()
    body: dict[str, object] = {"messages": [{"role": "user", "content": "Hi"}]}
    body |= {} if store is None else {"store": store}
    (start,) = to_worker(agent.prompt(body=body))
    assert isinstance(start, Start)
    assert start.sample is kept


def test_a_refusal_outlives_a_restart() -> None:
    agent = Agent(limits={"canary_samples": 5})
    body = {"messages": [{"role": "user", "content": "Hi"}], "store": False}
    agent.prompt(body=body)
    (start,) = to_worker(agent.restarted().handle(Ready(1.0, 1.0)))
    assert isinstance(start, Start)
    assert not start.sample


def test_the_card_says_how_many_are_kept() -> None:
    agent = Agent(limits={"canary_samples": 5}).ready()
    assert said(agent.handle(Connected()), topics.card_topic("pi"))["canary_samples"] == 5


def test_the_status_has_the_score_once_it_is_known() -> None:
    agent = Agent().ready()
    assert "quality" not in said(agent.handle(Connected()), topics.status_topic("pi"))
    status = said(agent.handle(QualityKnown(REPORT), after=2.0), topics.status_topic("pi"))
    assert status["quality"] == {
        "release": "sha256:r",
        "against": "sha256:q",
        "why": "",
        "rebuilt": False,
        "score": {
            "prompts": 4,
            "ended": 1,
            "positions": 9,
            "certain": 8,
            "agreement": 0.9,
            "kl": 0.1,
            "length_ratio": 1.0,
            "loops_added": 0.0,
        },
    }

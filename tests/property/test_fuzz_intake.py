"""Whatever a broker delivers: the session never raises, answers nobody but who asked, and what it
holds is bounded. `python -m tests.endurance.fuzz` runs as many as one likes."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from paho.mqtt import MQTTException

from edgekit.core.protocol import topics, wire
from edgekit.mqtt.hardened import UnbreakableClient
from tests.endurance import fuzz, fuzz_target
from tests.endurance.fuzz_session import (
    BrokenPromiseError,
    Watched,
    live_through,
    stories,
)

SEEN: Counter[str] = Counter()


@settings(max_examples=600, derandomize=True, database=None)
@given(stories)
def test_no_message_breaks_a_promise(story: list[wire.Inbound | int | float]) -> None:
    live_through(story, SEEN)


def test_prompts_controls_and_replies_were_among_them() -> None:
    live_through([prompt("alice", "alice")], SEEN)
    assert min(SEEN["Received"], SEEN["replies"]) > 0


def prompt(who: str, answer_to: str) -> wire.Inbound:
    return wire.Inbound(
        topic=topics.request_topic("pi", who),
        payload=b'{"messages": [{"role": "user", "content": "Hi"}]}',
        response_topic=topics.response_prefix(answer_to) + "1",
        expiry_seconds=60,
        user=(("ek-id", "p1"),),
    )


def test_correlation_data_too_long_for_an_id_is_refused_by_an_error_that_can_be_sent() -> None:
    message = msgspec.structs.replace(prompt("alice", "alice"), user=(), correlation=b"x" * 65_535)
    seen: Counter[str] = Counter()
    live_through([message], seen)
    assert seen["replies"] == 1


def test_an_answer_to_somebody_else_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "may_be_answered", lambda *_: True)
    with pytest.raises(BrokenPromiseError, match="is not alice's"):
        Watched().receive(prompt("alice", "bob"))


def test_bytes_guided_by_coverage_neither_break_the_client_nor_hold_it_up() -> None:
    told = fuzz.client(6000, seed=1)
    assert told["packets"] >= 6000
    assert told["Received"] > 100
    assert told["connections lost"] > 100


def test_what_the_client_would_die_of_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hardening of `mqtt.hardened` some changed bytes are enough."""
    monkeypatch.delattr(UnbreakableClient, "_packet_handle")
    target, choose = fuzz_target.Target(), random.Random(1)
    inputs = [fuzz_target.framed(fuzz_target.mutated(choose)) for _ in range(2000)]
    with pytest.raises((ValueError, LookupError, MQTTException)):
        any(map(target.feed, inputs))

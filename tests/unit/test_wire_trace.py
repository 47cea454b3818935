"""A prompt's W3C trace context: which one is echoed, and how it outlives the agent."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.agent.serve.pipe import Generated
from edgekit.core.protocol import wire
from tests.harness.session import Agent, replies

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def echoed(traceparent: str) -> str:
    """What the replies to a prompt with this one carry."""
    user = (("ek-id", "p1"), ("traceparent", traceparent))
    (accepted,) = replies(Agent().ready().prompt(user=user))
    return dict(accepted.user).get("traceparent", "")


@pytest.mark.parametrize(
    "traceparent",
    [TRACE, TRACE.removesuffix("01") + "ff", "01" + TRACE[2:], "cc" + TRACE[2:] + "-what-comes"],
)
def test_a_valid_one_is_echoed_as_it_came(traceparent: str) -> None:
    assert echoed(traceparent) == traceparent


@pytest.mark.parametrize(
    "traceparent",
    [
        *("", "00", TRACE[:-1], TRACE + "0", TRACE + "\n", " " + TRACE, TRACE.upper()),
        TRACE + "-more",  # version 00 ends after its flags
        "ff" + TRACE[2:],
        "cc" + TRACE[2:] + "more",
        "cc" + TRACE[2:] + "-" + 65 * "x",
        TRACE.replace("0af7651916cd43dd8448eb211c80319c", 32 * "0"),
        TRACE.replace("b7ad6b7169203331", 16 * "0"),
        TRACE.replace("-", "_"),
        100_000 * "a",
    ],
)
def test_an_invalid_one_is_dropped(traceparent: str) -> None:
    assert echoed(traceparent) == ""


def test_every_reply_carries_it_also_after_a_restart_and_to_a_newer_address() -> None:
    agent = Agent().ready()
    user = (("ek-id", "p1"), ("traceparent", TRACE))
    said = [*agent.prompt(user=user), *agent.handle(Generated("alice/p1", "Hel"))]
    again = agent.restarted()
    said += [*again.ready().query("p1"), *again.finishes("alice/p1")]
    assert [dict(m.user)["ek-kind"] for m in replies(said)] == [
        *("accepted", "delta", "state", "final")
    ]
    assert {dict(m.user)["traceparent"] for m in replies(said)} == {TRACE}
    newer = TRACE.replace("b7ad", "0000")
    (final,) = replies(again.prompt(user=(("ek-id", "p1"), ("traceparent", newer))))
    assert dict(final.user)["traceparent"] == newer


def test_a_journal_of_before_is_read() -> None:
    reply = wire.ReplyTo("edgekit/v1/res/a/1", b"c", "p1", "pi", final_only=False)
    row = msgspec.structs.asdict(reply)
    del row["traceparent"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=wire.ReplyTo) == reply

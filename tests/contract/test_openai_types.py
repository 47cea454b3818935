"""OpenAI's own SDK reads what a device answers: every final and every delta, without a warning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice

from edgekit.agent.serve.pipe import Done, Generated
from edgekit.agent.serve.session.events import Publish
from edgekit.client import Delta, Final
from edgekit.client.reply import read_reply
from edgekit.core.chat.calls import CalledFunction, FunctionDelta, ToolCall, ToolCallDelta
from edgekit.core.chat.completion import PromptTokensDetails, Timings, Usage
from edgekit.core.chat.logprobs import TokenLogprob, TopLogprob
from edgekit.core.protocol import wire
from tests.contract.test_schemas import Recorded
from tests.harness.session import BODY, Agent
from tests.scenario.story import DEVICE, POOL, Follower, stories
from tests.scenario.test_scripted import Scripted

TIMINGS = Timings(0.5, 1.0, 2.0, 30.0, 40.0)
USAGE = Usage(5, 3, 8, PromptTokensDetails(2))
NOT_OPENAIS = "cancelled"  # the finish reason of an answer that its requester stopped


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    """A warning of the SDK, or of pydantic below it, is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of other tests in this process
        yield


def final_read(payload: bytes) -> ChatCompletion:
    """A final as the SDK's type, in both of its ways to read; nothing of it is lost."""
    body = json.loads(payload)
    strict = ChatCompletion.model_validate(body)
    assert strict.model_dump(exclude_unset=True, warnings="error", mode="json") == body
    lenient = ChatCompletion.construct(**body)
    assert json.loads(lenient.to_json()) == body
    return strict


def chunk_read(message: wire.Outbound) -> ChatCompletionChunk:
    """A delta as the SDK's type: its choice as it is, and the chunk that edgekit's client makes."""
    body = json.loads(message.payload)
    (choice,) = body["choices"]
    read = ChunkChoice.model_validate(choice)
    assert read.model_dump(exclude_unset=True, warnings="error") == choice
    inbound = wire.Inbound(message.topic, message.payload, user=message.user)
    delta = read_reply(inbound)
    assert isinstance(delta, Delta)
    chunk = ChatCompletionChunk.model_validate(delta.chunk)
    assert chunk.model_dump(exclude_unset=True, warnings="error") == delta.chunk
    return chunk


def said(agent: Agent, *events: Generated | Done) -> tuple[list[wire.Outbound], wire.Outbound]:
    """The deltas and the final of these."""
    messages = [
        effect.message
        for event in events
        for effect in agent.handle(event)
        if isinstance(effect, Publish)
    ]
    of = {kind: [m for m in messages if kind_of(m) == kind] for kind in ("delta", "final")}
    (final,) = of["final"]
    return of["delta"], final


def kind_of(message: wire.Outbound) -> str:
    return dict(message.user).get("ek-kind", "")


def token(text: str, *others: str) -> TokenLogprob:
    tops = [TopLogprob(each, -1.5, list(each.encode())) for each in (text, *others)]
    return TokenLogprob(text, -1.5, list(text.encode()) or None, tops)


CALL = ToolCall("call_1", "function", CalledFunction("weather", '{"city": "Bern"}'))
PIECES = [
    ToolCallDelta(0, FunctionDelta("weather", ""), "call_1", "function"),
    ToolCallDelta(0, FunctionDelta(arguments='{"city": ')),
    ToolCallDelta(0, FunctionDelta(arguments='"Bern"}')),
]
KINDS: dict[str, tuple[list[Generated], Done]] = {
    "text": (
        [Generated("alice/p1", "Hel"), Generated("alice/p1", "lo.")],
        Done("alice/p1", "Hello.", "stop", USAGE, TIMINGS),
    ),
    "cut": ([], Done("alice/p1", "Hel", "length", USAGE, TIMINGS)),
    "empty": ([], Done("alice/p1", "", "stop", USAGE, TIMINGS)),
    "log-probabilities": (
        [
            Generated("alice/p1", "Hel", logprobs=[token("Hel", "Hal", "\\xf0")]),
            Generated("alice/p1", "lo.", logprobs=[token("lo."), token("")]),
        ],
        Done(
            *("alice/p1", "Hello.", "stop", USAGE, TIMINGS),
            logprobs=[token("Hel", "Hal", "\\xf0"), token("lo."), token("")],
        ),
    ),
    "thinking": (
        [Generated("alice/p1", "", "Hm. "), Generated("alice/p1", "Hello.", "So.")],
        Done("alice/p1", "Hello.", "stop", USAGE, TIMINGS, "Hm. So."),
    ),
    "calls": (
        [Generated("alice/p1", "", "", [each]) for each in PIECES],
        Done("alice/p1", "", "tool_calls", USAGE, TIMINGS, "", [CALL]),
    ),
    "all": (
        [Generated("alice/p1", "I ask.", "Hm.", PIECES, [token("x")])],
        Done("alice/p1", "I ask.", "tool_calls", USAGE, TIMINGS, "Hm.", [CALL], [token("x")]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_its_types_read_every_kind_of_answer(kind: str) -> None:
    agent = Agent().ready()
    agent.prompt(body=BODY)
    generated, done = KINDS[kind]
    deltas, final = said(agent, *generated, done)
    assert len(deltas) == len(generated)
    read = final_read(final.payload)
    (choice,) = read.choices
    assert choice.finish_reason == done.finish_reason
    assert (choice.message.content or "") == done.text
    assert [call.id for call in choice.message.tool_calls or []] == [c.id for c in done.calls]
    logprobs = [] if choice.logprobs is None else choice.logprobs.content
    assert len(logprobs or []) == len(done.logprobs or [])
    assert read.usage is not None
    assert read.usage.total_tokens == done.usage.total_tokens

    # what the SDK makes of the stream is the final's message
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for delta in deltas:
        state.handle_chunk(chunk_read(delta))
    if deltas:
        whole = state.current_completion_snapshot.choices[0].message
        assert (whole.content or "") == done.text
        assert [
            (call.id, call.function.name, call.function.arguments)
            for call in whole.tool_calls or []
        ] == [(call.id, call.function.name, call.function.arguments) for call in done.calls]
        thought = cast(str, (whole.model_extra or {}).get("reasoning_content", ""))
        assert thought == done.reasoning


def test_its_types_read_all_that_a_session_says_in_the_stories() -> None:
    finals = deltas = cancelled = 0
    for name, story in stories().items():
        agent = Recorded(device=DEVICE, pools=[POOL], rules=story.rules, **story.device)  # type: ignore[arg-type]  # limits
        Follower(story, name, Scripted(agent.ready())).run()
        for message in agent.said:
            if kind_of(message) == "delta":
                chunk_read(message)
                deltas += 1
            elif kind_of(message) == "final":
                body: dict[str, Any] = json.loads(message.payload)
                (choice,) = body["choices"]
                if choice["finish_reason"] == NOT_OPENAIS:
                    choice["finish_reason"] = "stop"
                    cancelled += 1
                final_read(msgspec.json.encode(body))
                finals += 1
    assert finals > 20
    assert deltas >= 3
    assert 0 < cancelled < finals


def test_edgekits_own_client_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent().ready()
    agent.prompt(body=BODY)
    deltas, final = said(agent, *KINDS["all"][0], KINDS["all"][1])
    read = read_reply(wire.Inbound(final.topic, final.payload, user=final.user))
    assert isinstance(read, Final)
    assert (read.text, read.reasoning, read.finish_reason) == ("I ask.", "Hm.", "tool_calls")
    assert [each["token"] for each in read.logprobs] == ["x"]
    piece = read_reply(wire.Inbound(deltas[0].topic, deltas[0].payload, user=deltas[0].user))
    assert isinstance(piece, Delta)
    assert (piece.text, piece.reasoning) == ("I ask.", "Hm.")

"""The schemas in docs/protocol: those of the types, and what a session really sends fits them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from edgekit.agent.serve.session.events import Effect, Event, Publish
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.completion import FinishReason, Usage, completion
from edgekit.core.protocol import payloads, wire
from edgekit.core.rules.rule import OUTPUTS
from tests import schemas
from tests.harness.session import Agent
from tests.scenario.story import DEVICE, POOL, Follower, stories
from tests.scenario.test_scripted import Scripted

REPLIES = {"accepted", "delta", "final", "error", "state"}


def schema(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((schemas.FOLDER / f"{name}.json").read_text("utf-8"))
    return read


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


@dataclass
class Recorded(Agent):
    """A session of which everything that it publishes is kept."""

    said: list[wire.Outbound] = field(default_factory=list)

    def handle(self, event: Event, after: float = 0.0) -> tuple[Effect, ...]:
        effects = super().handle(event, after)
        self.said += [e.message for e in effects if isinstance(e, Publish)]
        return effects


def kind_of(message: wire.Outbound) -> str:
    if message.topic.startswith(f"{OUTPUTS}/"):
        return "rule-answer"
    return dict(message.user).get("ek-kind") or message.topic.rsplit("/", 1)[1]


@pytest.fixture(scope="module")
def said() -> list[wire.Outbound]:
    """What a session publishes in all stories, and at its end."""
    everything: list[wire.Outbound] = []
    for name, story in stories().items():
        agent = Recorded(device=DEVICE, pools=[POOL], rules=story.rules, **story.device)  # type: ignore[arg-type]  # limits
        Follower(story, name, Scripted(agent.ready())).run()
        everything += agent.said
    return everything


def test_the_files_are_what_the_types_say() -> None:
    assert schemas.stale() == [], "run `python -m tests.schemas --write`"


def test_a_file_that_was_edited_is_missing_or_should_not_be_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    shutil.copytree(schemas.FOLDER, folder)
    (folder / "state.json").write_text("{}")
    (folder / "card.json").unlink()
    (folder / "another.json").write_text("{}")
    assert schemas.stale(folder) == ["another.json", "card.json", "state.json"]


@pytest.mark.parametrize("name", schemas.TYPES)
def test_each_is_a_schema_of_its_dialect(name: str) -> None:
    assert schema(name)["$schema"] == schemas.DIALECT
    Draft202012Validator.check_schema(schema(name))


def test_every_message_of_every_story_fits_the_schema_of_its_kind(
    said: list[wire.Outbound],
) -> None:
    checks = {name: validator(name) for name in (*REPLIES, "card", "status", "rule-answer")}
    for message in said:
        checks[kind_of(message)].validate(json.loads(message.payload))
    assert {kind_of(message) for message in said} == set(checks)


def test_error_codes_and_states_are_the_same_in_types_rules_and_prose() -> None:
    assert get_args(payloads.Code) == tuple(wire.CODES)
    prose = (schemas.FOLDER.parent / "README.md").read_text("utf-8")
    for name in (*get_args(payloads.DeviceState), *get_args(FinishReason)):
        assert f"`{name}`" in prose
    for state in get_args(payloads.PromptState):
        assert f'"{state}"' in prose


def body(**more: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **more}


def shown(image_url: object) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": image_url}
    return body(messages=[{"role": "user", "content": [*PARTS, part]}])


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


PARTS = [{"type": "text", "text": "Hi"}]
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "noon"}
SERVED: list[dict[str, Any]] = [
    body(),
    body(messages=[{"role": "developer", "content": PARTS}]),
    body(model=None, max_tokens=1, temperature=0, top_p=1, seed=0, stream=False),
    body(logit_bias={"0": -100, "7": 1.5}, stop=["a", "b"], top_k=3, min_p=0.5),
    body(stop="a", presence_penalty=-2, frequency_penalty=2, repetition_penalty=0.1),
    body(num_beams=8, length_penalty=-5, max_completion_tokens=5),
    body(n=1, logprobs=False, top_logprobs=0, response_format={"type": "text"}, tools=[]),
    body(response_format={"type": "json_object"}),
    body(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
    body(response_format={"type": "json_schema", "json_schema": {"schema": {}, "strict": True}}),
    body(grammar='start: "a"'),
    body(regex="a+", response_format={"type": "text"}),
    body(tool_choice="auto", functions=[], function_call="none", modalities=["text"], n=None),
    body(user="u", metadata={"a": "b"}, store=True, service_tier="auto", stream_options={}),
    {"messages": [{"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": []}]},
    body(tools=[TOOL], tool_choice="required", parallel_tool_calls=False),
    body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_time"}}),
    body(tools=[TOOL], tool_choice=allowed("auto", "get_time")),
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]},
    shown({"url": "data:image/jpeg;base64,/9j/"}),
    shown({"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}),
]
REFUSED: list[dict[str, Any]] = [
    {},
    {"messages": []},
    {"messages": "Hi"},
    {"messages": [{"role": "user", "content": "Hi", "nick": "me"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image", "data": "/9j/"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "audio", "text": ""}]}]},
    {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]},
    shown("data:image/jpeg;base64,/9j/"),
    shown({"url": "http://example.org/cat.jpg"}),
    shown({"url": "data:image/gif;base64,R0lG"}),
    shown({"url": "data:image/jpeg;base64,/9j/", "detail": "sharp"}),
    shown({"url": "data:image/jpeg;base64,/9j/", "width": 5}),
    {"messages": [{"role": "user", "content": "a\0b"}]},
    {"messages": [{"role": "assistant", "content": "Hi", "refusal": "no"}]},
    {"messages": [{"role": "assistant", "content": "Hi", "tool_calls": [{}]}]},
    body(tools=[{}]),
    body(tools=[{"type": "function", "function": {"name": "get weather"}}]),
    body(tools=[{"type": "custom", "custom": {"name": "f"}}]),
    body(tool_choice="sometimes"),
    body(tools=[TOOL], tool_choice=allowed("none", "get_time")),
    body(tools=[TOOL], tool_choice=allowed("auto")),
    {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}]},
    body(n=2),
    body(logprobs=0),
    body(top_logprobs=False),
    body(response_format={"type": "xml"}),
    body(response_format={"type": "text", "schema": {}}),
    body(response_format={"type": "json_schema"}),
    body(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": []}}),
    body(grammar=""),
    body(regex=5),
    body(modalities=["text", "audio"]),
    body(stream_options={"unknown": 1}),
    body(metadata=[]),
    body(max_tokens=0),
    body(max_tokens="5"),
    body(temperature=2.1),
    body(top_p=0),
    body(logit_bias={"no number": 1}),
    body(logit_bias={"-1": 1}),
    body(logit_bias={"1": 101}),
    body(stop=["a", "b", "c", "d", "e"]),
    body(stop=""),
    body(seed=-1),
    body(num_beams=9),
    body(stream=1),
]
# What one field says of another: no schema here says it
RULES: list[dict[str, Any]] = [
    {"messages": [RESULT]},
    {"messages": [{"role": "user"}]},
    body(tool_choice="required"),
    body(tools=[TOOL], tool_choice=allowed("auto", "get_date")),
]


@pytest.mark.parametrize("served", SERVED)
def test_a_body_that_is_served_fits_the_schema(served: dict[str, Any]) -> None:
    parse_body(json.dumps(served).encode())
    validator("chat-request").validate(served)


@pytest.mark.parametrize("refused", REFUSED)
def test_a_body_that_is_refused_does_not_fit(refused: dict[str, Any]) -> None:
    with pytest.raises(wire.ProtocolError):
        parse_body(json.dumps(refused).encode())
    assert not validator("chat-request").is_valid(refused)


@pytest.mark.parametrize("refused", RULES)
def test_a_body_may_fit_and_still_be_refused(refused: dict[str, Any]) -> None:
    validator("chat-request").validate(refused)
    with pytest.raises(wire.ProtocolError):
        parse_body(json.dumps(refused).encode())


def test_replies_are_the_bytes_they_always_were(said: list[wire.Outbound]) -> None:
    payloads_said = {message.payload for message in said}
    assert b'{"position":0}' in payloads_said
    assert b'{"seq":0,"choices":[{"index":0,"delta":{"content":"Hel"}}]}' in payloads_said
    assert b'{"state":"running","position":0}' in payloads_said
    assert b'{"state":"unknown"}' in payloads_said
    assert wire.ProtocolError("queue_full", "4 wait", retry_after_ms=2000).encode() == (
        b'{"error":{"code":"queue_full","message":"4 wait","type":"server_error","param":null,'
        b'"retryable":true,"retry_after_ms":2000}}'
    )
    assert completion(
        prompt_id="p1",
        model="m",
        created=5,
        text="Hi",
        finish_reason="stop",
        usage=Usage(1, 2, 3),
        timings=None,
        deltas=4,
    ) == (
        b'{"id":"chatcmpl-p1","object":"chat.completion","created":5,"model":"m","choices":'
        b'[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,'
        b'"prompt_tokens_details":{"cached_tokens":0}},"timings":null,"deltas":4}'
    )

"""Reads a story and follows it on any target."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import msgspec
import yaml

from edgekit.core.protocol import topics, wire
from edgekit.core.rules.message import HOPS
from edgekit.core.rules.rule import Rule, default_output

CASES = Path(__file__).parent / "cases"
DEVICE, POOL = "demo", "sensors"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
EXPECT_SECONDS = 60.0
Capability = Literal["logprobs", "json_schema", "tools"]  # words of the card's `capabilities`
CAPABILITIES = frozenset(get_args(Capability))


class Send(msgspec.Struct, forbid_unknown_fields=True, rename={"as_": "as"}):
    """A prompt."""

    id: str | None = None
    as_: str = ""
    body: dict[str, Any] | None = None
    text: str | None = None
    expiry: int | None = 60
    pool: bool = False
    want: str = ""
    reply_to: str = ""
    puback: int = 0
    content_type: str = wire.JSON
    traceparent: str = ""

    @property
    def label(self) -> str:
        """Its Correlation Data."""
        return self.as_ or self.id or ""


class Control(msgspec.Struct, forbid_unknown_fields=True, rename={"as_": "as"}):
    """`cancel` or `query`."""

    kind: Literal["cancel", "query"]
    id: str
    as_: str = ""
    pool: bool = False
    reply: bool = False


class Heard(msgspec.Struct, forbid_unknown_fields=True):
    """A message of no client, for the device's rules."""

    topic: str
    body: Any = None
    text: str | None = None
    qos: int = 1
    user: dict[str, str] = {}


class Answered(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of a rule."""

    rule: str
    payload: dict[str, Any] = {}
    content_json: dict[str, Any] | None = None


class Expect(msgspec.Struct, forbid_unknown_fields=True):
    """A reply."""

    kind: Literal["accepted", "delta", "final", "error", "state"]
    to: str
    payload: dict[str, Any] = {}
    answer_json: dict[str, Any] | None = None  # what the answer's text says
    status: int | None = None
    same_as: str = ""
    keep: str = ""
    traceparent: str = ""


class Model(msgspec.Struct, forbid_unknown_fields=True):
    """What a played model says."""

    id: str = ""
    rule: str = ""  # instead of `id`: the prompt of this rule that runs
    delta: str | None = None
    finish: str | None = None
    calls: list[dict[str, str]] = []  # of tools, with `finish`: name and arguments


class Action(msgspec.Struct, forbid_unknown_fields=True):
    """One of them is given."""

    send: Send | None = None
    control: Control | None = None
    expect: Expect | None = None
    heard: Heard | None = None
    answered: Answered | None = None
    silence: float | None = None
    advance: float | None = None
    model: Model | None = None
    fault: Literal[
        "kill_worker",
        "kill_agent",
        "replace_agent",
        "kill_broker",
        "full_disk",
        "room_on_disk",
        None,
    ] = None


class Story(msgspec.Struct, forbid_unknown_fields=True):
    """One file."""

    name: str
    actions: list[Action]
    needs: list[Literal["scripted_model", "full_disk", "one_slot"] | Capability] = []
    device: dict[str, int] = {}
    rules: dict[str, Rule] = {}
    may_remain: list[str] = []
    epilogue: list[Action] = []


def stories() -> dict[str, Story]:
    """Every story by the name of its file."""
    return {
        path.stem: msgspec.convert(yaml.safe_load(path.read_text()), Story)
        for path in sorted(CASES.glob("*.yaml"))
    }


class Target(Protocol):
    """A device under test and its broker."""

    def publish(self, message: wire.Outbound) -> int:
        """Publish as the requester; the PUBACK's reason code."""
        ...

    def replies(self, seconds: float) -> list[wire.Inbound]:
        """What came since the last call; waits at most so long, until something comes."""
        ...

    def advance(self, seconds: float) -> None:
        """Time passes."""
        ...

    def model(self, said: Model, requester: str) -> None:
        """A played model says something."""
        ...

    def fault(self, name: str) -> None:
        """Break something, or mend it."""
        ...


@dataclass
class Follower:
    """Follows one story."""

    story: Story
    requester: str
    target: Target
    device: str = DEVICE
    pool: str = POOL
    _inbox: list[wire.Inbound] = field(default_factory=list)
    _kept: dict[str, bytes] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)  # by label

    def run(self) -> None:
        """To the end."""
        for action in (*self.story.actions, *self.story.epilogue):
            self._follow(action)
        self._collect(0.3)
        may_remain = {label.encode() for label in self.story.may_remain}
        left = [
            m.property("ek-kind")
            for m in self._inbox
            if m.property("ek-kind") != "delta" and m.correlation not in may_remain
        ]
        assert not left, f"left over: {left}"

    def _follow(self, action: Action) -> None:
        match action:
            case Action(send=Send() as send):
                self._send(send)
            case Action(control=Control() as control):
                self._control(control)
            case Action(expect=Expect() as expect):
                self._expect(expect)
            case Action(heard=Heard() as heard):
                self._publish_heard(heard)
            case Action(answered=Answered() as answered):
                self._answered(answered)
            case Action(silence=float() as seconds):
                before = len(self._inbox)
                self._collect(seconds)
                came = [m for m in self._inbox[before:] if m.property("ek-kind") != "delta"]
                assert not came, f"not silent: {came}"
            case Action(advance=float() as seconds):
                self.target.advance(seconds)
            case Action(model=Model() as said):
                self.target.model(said, self.requester)
            case Action(fault=str() as fault):
                self.target.fault(fault)

    def _send(self, send: Send) -> None:
        topic = topics.request_topic(self.device, self.requester)
        if send.pool:
            topic = topics.pool_request_topic(self.pool, self.requester)
        user = [("ek-id", send.id)] if send.id else []
        if send.want:
            user.append(("ek-want", send.want))
        if send.traceparent:
            user.append(("traceparent", send.traceparent))
        payload = json.dumps(send.body or BODY) if send.text is None else send.text
        self._ids[send.label] = send.id or send.label.encode().hex()
        code = self.target.publish(
            wire.Outbound(
                topic,
                payload.encode(),
                response_topic=send.reply_to or topics.response_prefix(self.requester) + "s",
                correlation=send.label.encode(),
                expiry_seconds=send.expiry,
                content_type=send.content_type,
                user=tuple(user),
            )
        )
        assert code == send.puback, f"PUBACK 0x{code:02x}"

    def _control(self, control: Control) -> None:
        topic = topics.control_topic(self.device, self.requester)
        if control.pool:
            topic = topics.pool_control_topic(self.pool, self.requester)
        message = wire.Outbound(
            topic, json.dumps({"kind": control.kind, "id": control.id}).encode(), qos=0
        )
        if control.reply:
            label = control.as_ or control.id
            self._ids[label] = control.id
            message = msgspec.structs.replace(
                message,
                response_topic=topics.response_prefix(self.requester) + "c",
                correlation=label.encode(),
            )
        self.target.publish(message)

    def _expect(self, expect: Expect) -> None:
        deadline = time.monotonic() + EXPECT_SECONDS
        while (found := self._find(expect)) is None:
            assert time.monotonic() < deadline, f"no {expect.kind} to {expect.to}: {self._inbox}"
            if not self._collect(1.0) and self._frozen():
                raise AssertionError(f"no {expect.kind} to {expect.to}: {self._inbox}")
        self._inbox.remove(found)
        assert found.property("ek-id") == self._ids[expect.to]
        assert found.property("ek-dev") == self.device
        assert found.property("traceparent") == expect.traceparent
        assert (found.qos, found.retain) == (0 if expect.kind == "delta" else 1, False)
        assert found.expiry_seconds is not None
        assert 1 <= found.expiry_seconds <= wire.MAX_EXPIRY_SECONDS
        if expect.status is not None:
            assert found.property("ek-status") == str(expect.status)
        part_of(expect.payload, json.loads(found.payload), expect.kind)
        if expect.answer_json is not None:
            (choice,) = json.loads(found.payload)["choices"]
            assert json.loads(choice["message"]["content"]) == expect.answer_json
        if expect.same_as:
            assert found.payload == self._kept[expect.same_as], "another text"
        if expect.keep:
            self._kept[expect.keep] = found.payload

    def _publish_heard(self, heard: Heard) -> None:
        payload = json.dumps(heard.body) if heard.text is None else heard.text
        user = tuple(heard.user.items())
        topic = heard.topic.replace("{device}", self.device)
        code = self.target.publish(wire.Outbound(topic, payload.encode(), heard.qos, user=user))
        assert code == 0, f"PUBACK 0x{code:02x}"

    def _answered(self, answered: Answered) -> None:
        topic = default_output(self.device, answered.rule)
        deadline = time.monotonic() + EXPECT_SECONDS
        while (found := next((m for m in self._inbox if m.topic == topic), None)) is None:
            assert time.monotonic() < deadline, f"no answer of {answered.rule}: {self._inbox}"
            if not self._collect(1.0) and self._frozen():
                raise AssertionError(f"no answer of {answered.rule}: {self._inbox}")
        self._inbox.remove(found)
        answer = json.loads(found.payload)
        assert (found.qos, found.retain) == (1, False)
        assert found.property("ek-id") == answer["id"]
        assert found.property("ek-dev") == answer["device"] == self.device
        assert found.property("ek-rule") == answer["rule"] == answered.rule
        assert found.property(HOPS) == str(answer["hops"])
        part_of(answered.payload, answer, "answer")
        if answered.content_json is not None:
            assert json.loads(answer["content"]) == answered.content_json

    def _find(self, expect: Expect) -> wire.Inbound | None:
        """The first reply to that attempt; deltas are passed over unless one is expected."""
        for message in self._inbox:
            kind = message.property("ek-kind")
            if message.correlation == expect.to.encode() and kind in (
                expect.kind,
                "final",
                "error",
            ):
                assert kind == expect.kind, f"{kind} instead: {message.payload!r}"
                return message
        return None

    def _collect(self, seconds: float) -> bool:
        came = self.target.replies(seconds)
        self._inbox += came
        return bool(came)

    def _frozen(self) -> bool:
        return getattr(self.target, "frozen", False)


def part_of(expected: object, found: object, where: str) -> None:
    """Every key that is given has the given value; a list is compared by its length and items."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        for key, value in expected.items():
            assert key in found, f"{where}.{key} is missing in {found}"
            part_of(value, found[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(expected) == len(found), where
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            part_of(one, other, f"{where}[{number}]")
    else:
        assert found == expected, f"{where} is {found!r}, not {expected!r}"

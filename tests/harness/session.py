"""A session and its clock, which only the test moves; what it says, sorted for assertions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.agent.serve.pipe import Done, Ready, Start
from edgekit.agent.serve.session.events import (
    Ack,
    Connected,
    Controlled,
    Disconnected,
    Effect,
    Event,
    Forget,
    MessageHeard,
    Publish,
    Published,
    Received,
    Record,
    Restored,
    Snapshot,
    Tick,
    ToWorker,
    Unrecorded,
)
from edgekit.agent.serve.session.prompt import JournalRow
from edgekit.agent.serve.session.session import Session
from edgekit.agent.serve.session.states import State
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig, Fit
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.payloads import ImagesTaken
from edgekit.core.rules.rule import Rule

CARD, STATUS = topics.card_topic("pi"), topics.status_topic("pi")
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def bundle(**changes: Any) -> BundleConfig:
    values: dict[str, Any] = {
        "name": "smollm2",
        "version": "1",
        "model_type": "llama",
        "build_id": "b",
        "context_length": 1024,
        "kv_bytes_per_token": 1,
        "max_answer_tokens": 100,
        "fit": Fit(ram_bytes=1, disk_bytes=1),
    }
    return BundleConfig(**(values | changes))


@dataclass
class Agent:
    """A session, its clock, and a journal that is full when `disk_full` says so."""

    device: str = "pi"
    pools: list[str] = field(default_factory=list)
    queue_limit: int = 2
    requester_limit: int = 4
    limits: dict[str, int] = field(default_factory=dict)  # others of the device's
    search: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    bundled: dict[str, Any] = field(default_factory=dict)  # other values of the bundle's
    images: ImagesTaken | None = None  # what the model takes of pictures
    home_assistant: bool = False
    shown: bool = False
    now: float = 1000.0
    acks: list[object] = field(default_factory=list)
    disk: dict[str, JournalRow] = field(default_factory=dict)
    disk_full: bool = False
    _tokens: int = 0

    def __post_init__(self) -> None:
        config = AgentConfig(
            self.device,
            pools=self.pools,
            queue_limit=self.queue_limit,
            requester_limit=self.requester_limit,
            rules=self.rules,
            home_assistant=self.home_assistant,
            **self.limits,  # type: ignore[arg-type]  # all of them are integers
        )
        made, pictures = bundle(search=self.search, **self.bundled), self.images is not None
        self.session = Session(config, made, "sha256:r", "a1", 1e9, pictures, shown=self.shown)

    def handle(self, event: Event, after: float = 0.0) -> tuple[Effect, ...]:
        """What is done of the effects, as the service does it: the journal first."""
        self.now += after
        effects = self.session.handle(event, self.now)
        self.acks += [e.token for e in effects if isinstance(e, Ack)]
        rows = {e.row.key: e.row for e in effects if isinstance(e, Record)}
        forgotten = tuple(e.key for e in effects if isinstance(e, Forget))
        if self.disk_full and (rows or forgotten):
            said = tuple(e for e in effects if not (isinstance(e, Publish) and e.key in rows))
            return said + self.handle(Unrecorded(tuple(rows), forgotten))
        for key in forgotten:
            self.disk.pop(key, None)
        self.disk |= rows
        return effects

    def snapshot(self) -> Snapshot:
        """How it says that it is, in a tick."""
        (snapshot,) = [e for e in self.handle(Tick()) if isinstance(e, Snapshot)]
        return snapshot

    @property
    def ignored(self) -> int:
        """Messages and prompts that got no answer."""
        (family,) = [f for f in self.snapshot().metrics if f.name == "edgekit_ignored_total"]
        ((_, value),) = family.samples
        assert isinstance(value, int)
        return value

    def ready(self, slots: int = 1) -> Agent:
        """The model is loaded, the broker has subscribed us."""
        self.handle(Ready(1.0, 1.0, slots, images=self.images))
        self.handle(Connected())
        return self

    def restarted(self) -> Agent:
        """A new process after `kill -9`; what it knows is the journal. Not ready yet."""
        again = replace(self)
        again.handle(Disconnected())
        again.handle(Restored(tuple(again.disk.values())))
        return again

    def acknowledged(self, effects: Sequence[Effect], code: int | None = 0) -> tuple[Effect, ...]:
        """The broker's PUBACKs of these replies."""
        out: tuple[Effect, ...] = ()
        for effect in effects:
            if isinstance(effect, Publish) and effect.key and effect.message.qos:
                out += self.handle(Published(effect, code))
        return out

    def query(self, prompt_id: str = "p1", who: str = "alice", **more: Any) -> tuple[Effect, ...]:
        """What has become of it?"""
        return self.control("query", prompt_id, who, **more)

    def prompt(
        self,
        prompt_id: str = "p1",
        *,
        who: str = "alice",
        body: object = None,
        payload: bytes | None = None,
        want: str = "",
        **changes: Any,
    ) -> tuple[Effect, ...]:
        """A prompt arrives; its PUBACK is checked here, once for all tests."""
        self._tokens += 1
        user = [("ek-id", prompt_id)] if prompt_id else []
        if want:
            user.append(("ek-want", want))
        values: dict[str, Any] = {
            "topic": topics.request_topic("pi", who),
            "payload": json.dumps(BODY if body is None else body).encode(),
            "response_topic": topics.response_prefix(who) + "s/1",
            "correlation": prompt_id.encode() or b"\x01\x02",
            "expiry_seconds": 60,
            "content_type": wire.JSON,
            "user": tuple(user),
            "token": self._tokens,
        }
        if payload is not None:
            values["payload"] = payload
        effects = self.handle(Received(wire.Inbound(**(values | changes))))
        assert [e for e in effects if isinstance(e, Ack)] == [Ack(self._tokens)]
        return effects

    def cancel(self, prompt_id: str, who: str = "alice", **changes: Any) -> tuple[Effect, ...]:
        """Stop it."""
        return self.control("cancel", prompt_id, who, **changes)

    def control(self, kind: str, prompt_id: str, who: str, **changes: Any) -> tuple[Effect, ...]:
        """A control message arrives."""
        payload = json.dumps({"kind": kind, "id": prompt_id}).encode()
        values: dict[str, Any] = {"topic": topics.control_topic("pi", who), "payload": payload}
        return self.handle(Controlled(wire.Inbound(**(values | changes))))

    def hears(self, payload: object, topic: str = "plant/door", **more: Any) -> tuple[Effect, ...]:
        """A message for a rule arrives; its PUBACK is checked here, once for all tests."""
        self._tokens += 1
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        effects = self.handle(MessageHeard(wire.Inbound(topic, body, token=self._tokens, **more)))
        assert [e for e in effects if isinstance(e, Ack)] == [Ack(self._tokens)]
        return effects

    def fates(self) -> dict[str, int]:
        """What became of the messages of all rules."""
        (family,) = [f for f in self.snapshot().metrics if f.name == "edgekit_rule_messages_total"]
        return {str(labels["fate"]): int(n) for labels, n in family.samples}  # type: ignore[arg-type]  # a label is text

    def finishes(self, job: str = "alice/p1", reason: str = "stop") -> tuple[Effect, ...]:
        """The worker has answered it."""
        return self.handle(done(job, reason))


def done(job: str, reason: str = "stop", tokens: int = 3) -> Done:
    timings = Timings(0.0, 5.0, 6.0, 7.0, 42.0)
    return Done(job, "Hello.", reason, Usage(4, tokens, 4 + tokens), timings)


def replies(effects: Sequence[Effect]) -> list[wire.Outbound]:
    messages = [e.message for e in effects if isinstance(e, Publish)]
    return [m for m in messages if m.topic not in (CARD, STATUS)]


def kinds(effects: Sequence[Effect]) -> list[str]:
    return [dict(m.user)["ek-kind"] for m in replies(effects)]


def to_worker(effects: Sequence[Effect]) -> list[object]:
    return [e.message for e in effects if isinstance(e, ToWorker)]


def statuses(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    messages = [e.message for e in effects if isinstance(e, Publish)]
    return [json.loads(m.payload) for m in messages if m.topic == STATUS]


def error(effects: Sequence[Effect]) -> dict[str, Any]:
    """The one reply, which is an error; its status property is the code's."""
    (message,) = replies(effects)
    assert dict(message.user)["ek-kind"] == "error"
    body: dict[str, Any] = json.loads(message.payload)["error"]
    assert dict(message.user)["ek-status"] == str(wire.CODES[body["code"]][0])
    assert body["retryable"] is wire.CODES[body["code"]][1]
    return body


def states(agent: Agent) -> dict[str, State]:
    return {key.partition("/")[2]: row.state for key, row in agent.disk.items()}


def the_start(effects: Any) -> Start:
    (start,) = to_worker(effects)
    assert isinstance(start, Start)
    return start

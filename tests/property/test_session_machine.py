"""Any order of events: what the session promises of its effects always holds."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from edgekit.agent.serve.events import (
    Ack,
    Connected,
    Controlled,
    Drain,
    Event,
    Exit,
    Publish,
    Received,
    Spawn,
    Tick,
    ToWorker,
    WorkerLost,
)
from edgekit.agent.serve.pipe import Delta, Done, Failed, Ready, Start
from edgekit.agent.serve.session import Session
from edgekit.core import wire
from edgekit.core.chat import Timings, Usage
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig, Fit

REQUESTERS = ("alice", "bob")
OWN_TOPICS = (wire.card_topic("pi"), wire.status_topic("pi"))
BODIES = [
    json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()
    for text, more in (("Hi", {}), ("Ho", {"stream": False}), ("Hi", {"nonsense": 1}))
]
CONFIG = BundleConfig(
    name="m",
    version="1",
    model_type="llama",
    build_id="b",
    context_length=64,
    kv_bytes_per_token=1,
    max_answer_tokens=10,
    fit=Fit(ram_bytes=1, disk_bytes=1),
)

requesters = st.sampled_from(REQUESTERS)
ids = st.sampled_from(["one", "two", "three"])


class SessionMachine(RuleBasedStateMachine):
    """A model of what the broker, the requesters and the worker see."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(AgentConfig("pi", queue_limit=2), CONFIG, "r", "a", 0.0)
        self.now = 100.0
        self.sent = 0
        self.owner: dict[bytes, str] = {}  # correlation: requester
        self.ended: set[bytes] = set()  # correlations that had their final or error
        self.pending: dict[str, tuple[bytes, float]] = {}  # accepted key: correlation, deadline
        self.running: str | None = None
        self.loading = True
        self.exited = False

    def handle(self, event: Event, after: float = 0.0) -> None:
        self.now += after
        effects = self.session.handle(event, self.now)
        if isinstance(event, WorkerLost):
            self.running, self.loading = None, False
        acks = [effect.token for effect in effects if isinstance(effect, Ack)]
        expected = isinstance(event, Received | Controlled)
        assert acks == ([event.message.token] if isinstance(event, Received | Controlled) else [])
        assert len(acks) == expected
        for effect in effects:
            match effect:
                case Publish(message):
                    self.published(message)
                    said = dict(message.user)
                    if isinstance(event, Delta | Done) and "ek-id" in said:
                        assert event.job.endswith(f"/{said['ek-id']}"), "another prompt's answer"
                case ToWorker(Start(job)):
                    assert self.running is None, "two prompts at once"
                    assert not self.loading
                    assert self.pending[job][1] > self.now, "started after its deadline"
                    self.running = job
                case Spawn():
                    self.running, self.loading = None, True
                case Exit():
                    assert not self.exited
                    self.exited = True
                    assert effect is effects[-1]

    def published(self, message: wire.Outbound) -> None:
        if message.topic in OWN_TOPICS:
            assert message.retain
            return
        requester = self.owner[message.correlation]
        assert message.topic.startswith(wire.response_prefix(requester))
        assert not message.retain
        assert message.expiry_seconds is not None
        assert message.expiry_seconds >= 1
        user = dict(message.user)
        key = f"{requester}/{user['ek-id']}"
        assert message.correlation not in self.ended, "a reply after the last one"
        if user["ek-kind"] == "accepted":
            deadline = self.now + self.expiry
            if key in self.pending:  # a retry does not prolong
                deadline = self.pending[key][1]
            self.pending[key] = (message.correlation, deadline)
        elif user["ek-kind"] == "delta":
            assert key == self.running
        else:
            self.ended.add(message.correlation)
            if key in self.pending and self.pending[key][0] == message.correlation:
                del self.pending[key]
                if self.running == key:
                    self.running = None

    def forget_expired(self) -> None:
        """Prompts that waited too long end in silence."""
        for key, (_, deadline) in list(self.pending.items()):
            if deadline <= self.now and key != self.running:
                del self.pending[key]

    @precondition(lambda self: not self.exited)
    @rule(
        who=requesters,
        prompt_id=ids,
        body=st.sampled_from(BODIES),
        expiry=st.sampled_from([None, 1, 3, 60]),
        answer_to=requesters,
        retain=st.sampled_from([False, False, False, True]),
    )
    def prompt(
        self,
        who: str,
        prompt_id: str,
        body: bytes,
        expiry: int | None,
        answer_to: str,
        retain: bool,
    ) -> None:
        self.forget_expired()
        self.sent += 1
        correlation = str(self.sent).encode()
        if who == answer_to and not retain:
            self.owner[correlation] = who  # nobody else may hear of it
        self.expiry = expiry or 0
        message = wire.Inbound(
            topic=wire.request_topic("pi", who),
            payload=body,
            retain=retain,
            response_topic=wire.response_prefix(answer_to) + "x",
            correlation=correlation,
            expiry_seconds=expiry,
            user=(("ek-id", prompt_id),),
            token=self.sent,
        )
        self.handle(Received(message))

    @precondition(lambda self: not self.exited)
    @rule(who=requesters, prompt_id=ids)
    def cancel(self, who: str, prompt_id: str) -> None:
        payload = json.dumps({"kind": "cancel", "id": prompt_id}).encode()
        topic = wire.control_topic("pi", who)
        self.handle(Controlled(wire.Inbound(topic, payload, qos=0, token=("c", self.now))))

    @precondition(lambda self: not self.exited and self.loading)
    @rule()
    def ready(self) -> None:
        self.loading = False
        self.handle(Ready(1.0, 1.0))

    @precondition(lambda self: not self.exited and not self.loading)
    @rule(job=st.tuples(requesters, ids), running=st.booleans(), event=st.integers(0, 4))
    def worker_says(self, job: tuple[str, str], running: bool, event: int) -> None:
        key = self.running if running and self.running else "/".join(job)
        usage, timings = Usage(1, 1, 2), Timings(0, 1, 1, 1, 1)
        events: list[Any] = [
            Delta(key, "x"),
            Done(key, "x", "stop", usage, timings),
            Done(key, "x", "cancelled", usage, timings),
            Done(key, "x", "deadline", usage, timings),
            Failed(key, "context_length_exceeded", "long"),
        ]
        self.handle(events[event])

    @precondition(lambda self: not self.exited and not self.loading)
    @rule()
    def worker_dies(self) -> None:
        self.handle(WorkerLost())

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.handle(Tick(), seconds)
        self.forget_expired()

    @precondition(lambda self: not self.exited)
    @rule()
    def connected(self) -> None:
        self.handle(Connected())

    @precondition(lambda self: not self.exited and self.sent > 5)
    @rule(seconds=st.sampled_from([0.0, 2.0, 30.0]))
    def drain(self, seconds: float) -> None:
        self.handle(Drain(self.now + seconds))

    def teardown(self) -> None:
        """Whatever happened: from here on every prompt that still has time gets its answer."""
        for _ in range(10):
            if self.loading and not self.exited:
                self.ready()
            if self.running is not None and not self.exited:
                self.handle(Done(self.running, "x", "stop", Usage(1, 1, 2), Timings(0, 1, 1, 1, 1)))
        self.forget_expired()
        assert not self.pending
        assert self.running is None


SessionMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestSessionMachine = SessionMachine.TestCase

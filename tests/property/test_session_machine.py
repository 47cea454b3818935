"""Any order of events, deaths of agent, worker and disk among them: what the session promises of
its effects always holds."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from edgekit.agent.serve.pipe import Cancel, Done, Generated, Heartbeat, Ready, Refused, Start
from edgekit.agent.serve.session.events import (
    Ack,
    CheckStorage,
    Connected,
    Controlled,
    Disconnected,
    Drain,
    Effect,
    Event,
    Exit,
    Forget,
    GiveUp,
    GoOnline,
    MessageHeard,
    Publish,
    Published,
    Received,
    Record,
    Restored,
    SayReady,
    Snapshot,
    Spawn,
    StorageBack,
    Tick,
    ToWorker,
    Unrecorded,
    WorkerLost,
)
from edgekit.agent.serve.session.prompt import KEEP_SECONDS, JournalRow
from edgekit.agent.serve.session.session import Session
from edgekit.agent.serve.session.states import State
from edgekit.core.chat.calls import CalledFunction, ToolCall
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.rules.rule import Rule, default_output, requester_name
from tests.harness.session import bundle

REQUESTERS = ("alice", "bob")
OWN_TOPICS = (topics.card_topic("pi"), topics.status_topic("pi"))
CLOSED = {"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": CLOSED}}
TOOL = {"type": "function", "function": {"name": "switch", "parameters": CLOSED}}
BODIES = [
    json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()
    for text, more in (
        ("Hi", {}),
        ("Ho", {"stream": False}),
        ("Hi", {"nonsense": 1}),
        ("Hi", {"response_format": FORM}),
        ("Hi", {"response_format": {**FORM, "json_schema": {"name": "a", "schema": {"x": 1}}}}),
        ("Hi", {"tools": [TOOL], "tool_choice": "required"}),
    )
]
HEARD = "plant/door"
RULES = {
    "door": Rule(
        topic_filter=HEARD,
        prompt="{{ message.n }}",
        response_format=FORM,
        per_minute=600,
        deadline_seconds=5,
    )
}
MESSAGES = (Received, Controlled, MessageHeard)
RULE_KEY = f"{requester_name('door')}/"
CALLS = [ToolCall("call-1", "function", CalledFunction("switch", '{"a":1}'))]
CONFIG = bundle(name="m", context_length=64, max_answer_tokens=10)
USAGE, TIMINGS = Usage(1, 1, 2), Timings(0, 1, 1, 1, 1)

requesters = st.sampled_from(REQUESTERS)
ids = st.sampled_from(["one", "two"])
rarely = st.integers(0, 4).map(lambda number: number == 4)


class SessionMachine(RuleBasedStateMachine):
    """What the broker, the requesters, the worker and the journal see of one device."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.sent = 0
        self.heard = 0
        self.serial = 0  # no two answers of the model are alike
        self.owner: dict[bytes, str] = {}  # correlation: requester
        self.disk: dict[str, JournalRow] = {}
        self.disk_works = True
        self.answers: dict[str, bytes] = {}  # key: what it was answered, until it is forgotten
        self.in_flight: list[Publish] = []
        self.told: set[bytes] = set()
        self.slots = 1
        self.born()

    def born(self) -> None:
        """A new process of the agent; what it knows is the journal."""
        self.session = Session(AgentConfig("pi", queue_limit=2, rules=RULES), CONFIG, "r", "a", 0.0)
        self.running: set[str] = set()
        self.loading = True
        self.connected = False
        self.online = False
        self.loaded = False
        self.exited = False
        self.storing = True
        self.handle(Disconnected())
        if self.disk_works:
            self.handle(Restored(tuple(self.disk.values())))
        else:
            self.storing = False
            self.handle(Unrecorded())
        self.restored = self.disk_works

    def handle(self, event: Event, after: float = 0.0) -> None:
        self.now += after
        effects = self.session.handle(event, self.now)
        if isinstance(event, WorkerLost):
            self.running.clear()
            self.loading = False
        acks = [effect.token for effect in effects if isinstance(effect, Ack)]
        owed = [event.message.token] if isinstance(event, MESSAGES) else []
        assert acks == owed
        told = [effect for effect in effects if isinstance(effect, Snapshot)]
        assert len(told) == isinstance(event, Tick)
        self.loaded = self.loaded or isinstance(event, Ready)
        self.tell_worker(effects)
        unrecorded = self.commit(effects)
        for effect in effects:
            match effect:
                case Publish(message, key, kind):
                    if unrecorded is not None and key in unrecorded.recorded:
                        continue
                    self.published(message, key)
                    if key and kind != "delta":
                        self.in_flight.append(effect)
                    said = dict(message.user)
                    if isinstance(event, Generated | Done) and "ek-id" in said:
                        assert event.key.endswith(f"/{said['ek-id']}"), "another prompt's answer"
                case Spawn():
                    self.running.clear()
                    self.loading = True
                case GoOnline():
                    assert isinstance(event, Ready)
                    assert not self.online, "connects twice"
                    self.online = True
                case SayReady():
                    assert isinstance(event, Connected)
                    assert self.loaded, "ready without a model"
                case GiveUp():
                    assert isinstance(event, WorkerLost)
                    assert not self.loaded, "a model that was loaded once is loaded again"
                case CheckStorage():
                    assert not self.storing
                    if self.disk_works:
                        self.repaired()
                case Exit():
                    assert not self.exited
                    self.exited = True
                    assert effect is effects[-1]
        if unrecorded is not None:
            self.storing = False
            self.handle(unrecorded)
        if any(isinstance(effect, GiveUp) for effect in effects):
            self.agent_dies(True)  # its supervisor starts it again

    def tell_worker(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case ToWorker(Start(key)):
                    assert len(self.running) < self.slots, "more than the worker can run"
                    assert key not in self.running
                    assert not self.loading
                    self.running.add(key)
                case ToWorker(Cancel(key)):
                    assert key in self.running

    def commit(self, effects: tuple[Effect, ...]) -> Unrecorded | None:
        rows = [effect.row for effect in effects if isinstance(effect, Record)]
        keys = [effect.key for effect in effects if isinstance(effect, Forget)]
        assert len({row.key for row in rows}) == len(rows)
        for row in rows:
            if row.sent and row.state != State.EXPIRED:
                assert row.outcome is not None
                unanswered = row.origin is not None and row.outcome.kind == "error"
                told = unanswered or row.outcome.payload in self.told  # a rule publishes answers
                assert told, "an outcome that no broker has"
            assert (row.outcome is None) == (row.state in (State.ACCEPTED, State.RUNNING))
            before = self.disk.get(row.key)
            if before is not None and before.outcome not in (None, row.outcome):
                assert before.outcome.code in wire.HANDED_BACK, "a second outcome of one prompt"
        if not self.disk_works:
            return Unrecorded(tuple(r.key for r in rows), tuple(keys)) if rows or keys else None
        for key in keys:
            del_row = self.disk.pop(key, None)
            if del_row is not None:
                self.answers.pop(key, None)
        for row in rows:
            if row.outcome is None:
                self.answers.pop(row.key, None)  # handed back, and begun anew
            self.disk[row.key] = row
        return None

    def repaired(self) -> None:
        if not self.restored:
            self.restored = True
            self.handle(Restored(tuple(self.disk.values())))
        self.storing = True
        self.handle(StorageBack())

    def published(self, message: wire.Outbound, key: str) -> None:
        if message.topic in OWN_TOPICS:
            assert message.retain
            return
        if message.topic == default_output("pi", "door"):
            self.answered_by_rule(message, key)
            return
        requester = self.owner[message.correlation]
        assert message.topic.startswith(topics.response_prefix(requester))
        assert not message.retain
        assert message.expiry_seconds is not None
        assert message.expiry_seconds >= 1
        user = dict(message.user)
        if not key:
            assert user["ek-kind"] in ("error", "state")
            return
        assert key == f"{requester}/{user['ek-id']}"
        row = self.disk[key]  # nothing is said of a prompt that is not on the disk
        if user["ek-kind"] == "accepted":
            assert row.outcome is None
        elif user["ek-kind"] == "delta":
            assert key in self.running
        else:
            assert row.outcome is not None, "said before it was stored"
            assert row.outcome.payload == message.payload
            assert self.answers.setdefault(key, message.payload) == message.payload

    def answered_by_rule(self, message: wire.Outbound, key: str) -> None:
        """A rule publishes an answer alone, once it is stored, and always the same."""
        answer = json.loads(message.payload)
        assert key == f"{RULE_KEY}{answer['id']}" == f"{RULE_KEY}{dict(message.user)['ek-id']}"
        assert not message.retain
        row = self.disk[key]
        assert row.outcome is not None, "said before it was stored"
        (choice,) = json.loads(row.outcome.payload)["choices"]  # no refusal and no error has any
        assert answer["content"] == choice["message"]["content"]
        assert self.answers.setdefault(key, message.payload) == message.payload

    # --- requesters ---------------------------------------------------------------------------
    @precondition(lambda self: not self.exited and self.connected)
    @rule(
        who=requesters,
        prompt_id=ids,
        body=st.sampled_from([BODIES[0], *BODIES]),
        expiry=st.sampled_from([None, 1, 3, 60, 60]),
        foreign=rarely,
        retain=rarely,
    )
    def prompt(
        self,
        who: str,
        prompt_id: str,
        body: bytes,
        expiry: int | None,
        foreign: bool,
        retain: bool,
    ) -> None:
        self.sent += 1
        answer_to = "carol" if foreign else who
        correlation = str(self.sent).encode()
        if not foreign and not retain:
            self.owner[correlation] = who  # nobody else may hear of it
        message = wire.Inbound(
            topic=topics.request_topic("pi", who),
            payload=body,
            retain=retain,
            response_topic=topics.response_prefix(answer_to) + "x",
            correlation=correlation,
            expiry_seconds=expiry,
            user=(("ek-id", prompt_id),),
            token=self.sent,
        )
        self.handle(Received(message))

    @precondition(lambda self: not self.exited and self.connected)
    @rule(number=st.integers(0, 2), qos=st.sampled_from([0, 1, 1]), wrong=rarely)
    def message_for_a_rule(self, number: int, qos: int, wrong: bool) -> None:
        self.heard += 1
        payload = b"no JSON" if wrong else json.dumps({"n": number}).encode()
        self.handle(MessageHeard(wire.Inbound(HEARD, payload, qos=qos, token=("m", self.heard))))

    @precondition(lambda self: not self.exited and self.connected)
    @rule(who=requesters, prompt_id=ids, kind=st.sampled_from(["cancel", "query"]))
    def control(self, who: str, prompt_id: str, kind: str) -> None:
        payload = json.dumps({"kind": kind, "id": prompt_id}).encode()
        topic = topics.control_topic("pi", who)
        self.handle(Controlled(wire.Inbound(topic, payload, qos=0, token=("c", self.now))))

    # --- the worker ---------------------------------------------------------------------------
    @precondition(lambda self: not self.exited and self.loading)
    @rule(slots=st.integers(1, 2))
    def ready(self, slots: int) -> None:
        self.loading = False
        self.slots = slots
        self.handle(Ready(1.0, 1.0, slots))

    @precondition(lambda self: not self.exited and not self.loading)
    @rule(sender=st.tuples(requesters, ids), other=rarely, event=st.integers(-1, 5))
    def worker_says(self, sender: tuple[str, str], other: bool, event: int) -> None:
        key = "/".join(sender) if other or not self.running else min(self.running)
        self.serial += 1
        events: list[Any] = [
            Generated(key, "x"),
            Done(key, str(self.serial), "stop", USAGE, TIMINGS),
            Done(key, str(self.serial), "cancelled", USAGE, TIMINGS),
            Done(key, "x", "deadline", USAGE, TIMINGS),
            Refused(key, "context_length_exceeded", "long"),
            Done(key, str(self.serial), "tool_calls", USAGE, TIMINGS, calls=CALLS),
        ]
        if event > 0:
            self.running.discard(key)
        self.handle(Heartbeat(1.0) if event < 0 else events[event])

    @precondition(lambda self: not self.exited)
    @rule(dies=rarely)
    def worker_dies(self, dies: bool) -> None:
        if dies:
            self.handle(WorkerLost())

    # --- the world ----------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 70.0, KEEP_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.handle(Tick(), seconds)

    @precondition(lambda self: not self.exited)
    @rule()
    def connected_again(self) -> None:
        self.connected = True
        self.handle(Connected())

    @precondition(lambda self: not self.exited and self.connected)
    @rule(lost=rarely)
    def connection_lost(self, lost: bool) -> None:
        if not lost:
            return
        self.connected = False
        unacked, self.in_flight = self.in_flight, []
        for reply in unacked:
            self.handle(Published(reply, None))
        self.handle(Disconnected())

    @precondition(lambda self: self.connected and self.in_flight)
    @rule(code=st.sampled_from([0, 0, 0x10]))
    def puback(self, code: int) -> None:
        reply = self.in_flight.pop(0)
        row = self.disk.get(reply.key) if reply.key.startswith(RULE_KEY) else None
        stored = None if row is None else row.outcome  # a rule publishes what it makes of that
        self.told.add(reply.message.payload if stored is None else stored.payload)
        self.handle(Published(reply, code))

    @rule(fails=rarely)
    def disk_changes(self, fails: bool) -> None:
        self.disk_works = not fails

    @rule(dies=rarely)
    def agent_dies(self, dies: bool) -> None:
        if dies:
            self.in_flight.clear()
            self.born()

    @precondition(lambda self: not self.exited and self.sent > 9)
    @rule(seconds=st.sampled_from([0.0, 2.0, 30.0]), successor=st.booleans())
    def drain(self, seconds: float, successor: bool) -> None:
        self.handle(Drain(self.now + seconds, successor))

    def teardown(self) -> None:
        """Whatever happened: a device that is left alone ends every prompt that is on its disk."""
        self.disk_works = True
        self.agent_dies(True)
        self.connected_again()
        for _ in range(10):
            if self.loading:
                self.ready(1)
            if self.running:
                key = self.running.pop()
                self.serial += 1
                self.handle(Done(key, str(self.serial), "stop", USAGE, TIMINGS))
            while self.in_flight:
                self.puback(0)
            self.handle(Tick(), 0.5)
        assert not self.running
        for row in self.disk.values():
            assert row.outcome is not None, "accepted, and no outcome"
            assert row.sent, "an outcome that nobody was told"
        self.handle(Tick(), 3600 + KEEP_SECONDS)
        assert not self.disk, "kept for ever"


SessionMachine.TestCase.settings = settings(
    max_examples=400, stateful_step_count=60, deadline=None, derandomize=True, database=None
)
TestSessionMachine = SessionMachine.TestCase

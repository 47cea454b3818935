"""Anything at all that a broker may deliver, and a session that is watched while it gets it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st

from edgekit.agent.serve.pipe import Cancel, Done, Generated, Ready, Refused, Start
from edgekit.agent.serve.session.events import (
    Ack,
    Connected,
    Controlled,
    Event,
    Publish,
    Published,
    Received,
    Tick,
    ToWorker,
    WorkerLost,
)
from edgekit.agent.serve.session.ledger import MAX_BYTES, MAX_ROWS
from edgekit.agent.serve.session.session import Session
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.packet import publish_properties
from tests.harness.session import bundle

DEVICE, POOL = "pi", "all"
NAMES = ("alice", "bob", "m" * 64)
SLOTS = 2
OVERSHOOT_BYTES = 16 << 20  # outcomes come after their prompts were let in
CONFIG = AgentConfig(DEVICE, pools=[POOL], requests_per_minute=6000, max_messages=3)
BUNDLE = bundle(name="m", context_length=64, max_answer_tokens=10)

# --- what comes -------------------------------------------------------------------------------
_names = st.sampled_from((*NAMES, "", "al ice", "m" * 65, "\x00", "ä", ".", "..", "#", "%u"))
_text = st.text(max_size=40)
_topics = st.one_of(
    st.builds(lambda name: topics.request_topic(DEVICE, name), st.sampled_from(NAMES)),
    st.builds(lambda name: topics.control_topic(DEVICE, name), st.sampled_from(NAMES)),
    st.builds(lambda name: topics.pool_request_topic(POOL, name), _names),
    st.builds(lambda name: topics.pool_control_topic(POOL, name), _names),
    st.builds(lambda name: topics.request_topic(DEVICE, name), _names),
    st.builds(lambda a, b: f"{topics.PREFIX}/{a}/{b}", _text, _text),
)
_ends = st.one_of(
    st.sampled_from(("1", "s/1", "", "#", "+/x", "\x00", "x" * 600, "\ufeff", "/")), _text
)
_addresses = st.one_of(
    st.builds(lambda name, end: topics.response_prefix(name) + end, st.sampled_from(NAMES), _ends),
    st.builds(lambda name, end: topics.response_prefix(name) + end, _names, _ends),
    st.sampled_from(("", topics.status_topic(DEVICE), topics.card_topic(DEVICE), "$SYS/x")),
    _text,
)
_ids = st.one_of(st.sampled_from(("one", "two", "", "i" * 129, "a/b", "\x00")), _text)
_user = st.lists(
    st.one_of(
        st.tuples(st.just("ek-id"), _ids),
        st.tuples(st.just("ek-want"), st.sampled_from(("final", "", "delta-qos1"))),
        st.tuples(_text, _text),
    ),
    max_size=4,
).map(tuple)
_message: dict[str, Any] = {"role": "user", "content": "Hi"}
_shown: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}}],
}
_fields = (
    *("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p"),
    *("presence_penalty", "logit_bias", "repetition_penalty", "seed", "num_beams", "stop"),
    *("stream", "length_penalty", "messages", "nonsense", "content", "image_url", "url", "type"),
)
_json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        _text,
        st.just("a" * 300),
        st.just(_message),
        st.just(_shown),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(_fields), _text), inner, max_size=5),
    ),
    max_leaves=12,
)
_bodies = st.one_of(
    st.just({"messages": [_message]}),
    st.just({"messages": [_shown, _message]}),
    st.builds(
        lambda more: {"messages": [_message]} | more,
        st.dictionaries(st.sampled_from(_fields), _json, max_size=2),
    ),
    st.builds(
        lambda kind, name: {"kind": kind, "id": name},
        st.sampled_from(("cancel", "query", "x")),
        _ids,
    ),
    _json,
).map(lambda value: json.dumps(value).encode())
_deep = st.builds(
    lambda head, piece, times: (head + piece * times)[:140_000].encode(),
    st.sampled_from(("", '{"messages":', '{"messages":[],"x":', '{"stop":')),
    st.sampled_from(("[", '{"a":', '"', "\\", "[]", "0", "-")),
    st.sampled_from((1, 100, 3000, 140_000)),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(_bodies))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


payloads = st.one_of(_bodies, _bodies, _mutated(), st.binary(max_size=200), _deep)
messages = st.builds(
    wire.Inbound,
    topic=_topics,
    payload=payloads,
    qos=st.integers(0, 1),
    retain=st.sampled_from((False, False, False, True)),
    response_topic=_addresses,
    correlation=st.one_of(st.binary(max_size=70), st.sampled_from((b"", b"c", b"x" * 65_535))),
    expiry_seconds=st.sampled_from((None, 0, 1, 60, 3600, 2**32 - 1)),
    content_type=st.one_of(st.sampled_from(("", wire.JSON, "application/cbor", "x" * 9000)), _text),
    user=_user,
)


def _from(name: str, control: bool, message: wire.Inbound) -> wire.Inbound:
    """The message, as far as its address goes in order."""
    return msgspec.structs.replace(
        message,
        topic=(topics.control_topic if control else topics.request_topic)(DEVICE, name),
        response_topic=topics.response_prefix(name) + "1",
        expiry_seconds=60,
        retain=False,
    )


_answerable = st.builds(_from, st.sampled_from(NAMES), st.booleans(), messages)


# --- who gets it ------------------------------------------------------------------------------
class BrokenPromiseError(AssertionError):
    """What was promised of every effect did not hold."""


def _promise(kept: bool, what: str) -> None:
    if not kept:
        raise BrokenPromiseError(what)


@dataclass
class Watched:
    """A session with a worker that answers at once or never, and the promises of its effects."""

    session: Session = field(
        default_factory=lambda: Session(CONFIG, BUNDLE, "sha256:r", "a", 0.0, takes_pictures=True)
    )
    now: float = 100.0
    running: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.handle(Ready(1.0, 1.0, SLOTS))
        self.handle(Connected())

    def receive(self, message: wire.Inbound) -> None:
        """One message from the broker."""
        self.tokens += 1
        kind = Controlled if topics.is_control(message.topic) else Received
        token = {"topic": message.topic, "token": self.tokens}
        event = kind(
            wire.Inbound(**{f: getattr(message, f) for f in message.__struct_fields__} | token)
        )
        self.seen[kind.__name__] += 1
        self.handle(event)

    def handle(self, event: Event) -> None:
        """What happens next; every effect is looked at."""
        effects = self.session.handle(event, self.now)
        acks = [effect.token for effect in effects if isinstance(effect, Ack)]
        due = [event.message.token] if isinstance(event, Received | Controlled) else []
        _promise(acks == due, f"{len(acks)} PUBACKs")
        for effect in effects:  # first, as the service does
            match effect:
                case ToWorker(Start(job)):
                    self.running.append(job)
                case ToWorker(Cancel(job)):
                    _promise(job in self.running, "a cancel of what does not run")
        for effect in effects:
            if isinstance(effect, Publish):
                self._published(effect, event)
        _promise(len(self.running) <= SLOTS, "more than the worker can run")
        self._bounded()

    def worker_says(self, draw: int) -> None:
        """Something becomes of the oldest prompt that runs."""
        if draw == 0:
            self.running.clear()
            self.handle(WorkerLost())
            self.handle(Ready(1.0, 1.0, SLOTS))
        elif self.running:
            job = self.running[0] if draw == 1 else self.running.pop(0)
            events: list[Event] = [
                Generated(job, "é☕"),
                Done(job, "x\x00\ud7ff", "stop", Usage(1, 1, 2), Timings(0, 1, 1, 1, 1)),
                Refused(job, "context_length_exceeded", "long" * 1000, "messages"),
            ]
            self.handle(events[min(draw, 3) - 1])

    def time_passes(self, seconds: float) -> None:
        """Without anybody saying anything."""
        self.now += seconds
        self.handle(Tick())

    def _published(self, effect: Publish, event: Event) -> None:
        message = effect.message
        own = (topics.card_topic(DEVICE), topics.status_topic(DEVICE))
        if message.topic in own:
            _promise(message.retain and not effect.key, "a reply on the device's own topic")
            return
        self.seen["replies"] += 1
        if effect.key:
            requester = effect.key.partition("/")[0]
        else:
            _promise(isinstance(event, Received | Controlled), "a reply to nobody")
            assert isinstance(event, Received | Controlled)
            requester = topics.requester_of(event.message.topic)
        _promise(bool(requester), "a reply to somebody without a name")
        prefix = topics.response_prefix(requester)
        _promise(message.topic.startswith(prefix), f"{message.topic!r} is not {requester}'s")
        _promise(not set(message.topic) & set("+#\0"), f"{message.topic!r} is no topic")
        publish_properties(message)
        _promise(len(message.payload) < 2 * wire.MAX_BODY_BYTES, "a reply larger than a prompt")
        if effect.key and message.qos and effect.kind != "delta":
            code = (0, 0, 0x10, 0x87, None)[self.tokens % 5]
            self.handle(Published(effect, code))

    def _bounded(self) -> None:
        prompts = self.session._prompts
        ledger = prompts.ledger
        _promise(len(ledger._prompts) <= MAX_ROWS, "more rows than the journal may have")
        _promise(
            ledger._bytes <= MAX_BYTES + OVERSHOOT_BYTES, "more bytes than the journal may have"
        )
        _promise(ledger._bytes == sum(ledger._sizes.values()), "bytes are counted wrongly")
        rows = sum(rows for rows, _ in ledger._held.values())
        _promise(rows == len(ledger._prompts), "rows are counted wrongly")
        _promise(len(prompts.queue) <= CONFIG.queue_limit + SLOTS, "more wait than may")


steps = st.one_of(messages, _answerable, _answerable, st.integers(0, 4), st.floats(0, 100))
stories = st.lists(steps, min_size=1, max_size=50)


def live_through(story: list[wire.Inbound | int | float], seen: Counter[str]) -> None:
    """A new session gets all of it.

    Raises:
        BrokenPromiseError: what was promised of every effect did not hold.
        Exception: the session raised one, which it never does.
    """
    watched = Watched(seen=seen)
    for step in story:
        if isinstance(step, wire.Inbound):
            watched.receive(step)
        elif isinstance(step, int):
            watched.worker_says(step)
        else:
            watched.time_passes(step)

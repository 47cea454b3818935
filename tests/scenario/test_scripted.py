"""Every story against the session alone: frozen clock, played broker and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from edgekit.agent.serve.pipe import Cancel, Done, Generated, Ready, Start
from edgekit.agent.serve.session.events import (
    CheckStorage,
    Connected,
    Controlled,
    Disconnected,
    Drain,
    Effect,
    MessageHeard,
    Publish,
    Received,
    StorageBack,
    Tick,
    ToWorker,
    WorkerLost,
)
from edgekit.core.chat.calls import CalledFunction, ToolCall
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.chat.logprobs import TokenLogprob, TopLogprob
from edgekit.core.protocol import topics, wire
from edgekit.core.rules.rule import OUTPUTS, requester_name
from tests.harness import spoken
from tests.harness.session import Agent
from tests.scenario.story import DEVICE, POOL, Follower, Model, stories

STORIES = stories()
TICK_SECONDS = 0.5
REPLIES = (f"{topics.PREFIX}/res/", f"{OUTPUTS}/")  # what a requester reads, and who reads rules


@dataclass
class Scripted:
    """A session, its broker and its model."""

    agent: Agent
    encoding: spoken.Encoding = "properties"
    frozen: bool = True
    _inbox: list[wire.Inbound] = field(default_factory=list)
    _said: dict[str, str] = field(default_factory=dict)  # text by job
    _tops: dict[str, int] = field(default_factory=dict)  # of log-probabilities, by job
    _running: list[str] = field(default_factory=list)  # jobs
    _tokens: int = 0

    def publish(self, message: wire.Outbound) -> int:
        self._tokens += 1
        if not topics.is_ours(message.topic):
            self._done(self.agent.handle(MessageHeard(self._inbound(message))))
            assert self.agent.acks[-1] == self._tokens
            return 0
        message = spoken.written(message, self.encoding)
        kind = Controlled if topics.is_control(message.topic) else Received
        self._done(self.agent.handle(kind(self._inbound(message))))
        assert self.agent.acks[-1] == self._tokens
        return 0

    def _inbound(self, message: wire.Outbound) -> wire.Inbound:
        return wire.Inbound(
            message.topic,
            message.payload,
            message.qos,
            message.retain,
            message.response_topic,
            message.correlation,
            message.expiry_seconds,
            message.content_type,
            message.user,
            token=self._tokens,
        )

    def replies(self, seconds: float) -> list[wire.Inbound]:
        came, self._inbox = self._inbox, []
        return came

    def advance(self, seconds: float) -> None:
        while seconds > 0:
            self._done(self.agent.handle(Tick(), after=min(TICK_SECONDS, seconds)))
            seconds -= TICK_SECONDS

    def model(self, said: Model, requester: str) -> None:
        job = f"{requester}/{said.id}"
        if said.rule:
            own = f"{requester_name(said.rule)}/"
            job = next(key for key in self._running if key.startswith(own))
        if said.delta is not None:
            self._said[job] = self._said.get(job, "") + said.delta
            self._done(self.agent.handle(Generated(job, said.delta)))
        if said.finish is not None:
            text = self._said.pop(job, "") + said.finish
            self._done(self.agent.handle(self._ended(job, text, "stop", said.calls)))

    def fault(self, name: str) -> None:
        if name == "kill_worker":
            self._said.clear()
            self._done(self.agent.handle(WorkerLost()))
            self._done(self.agent.handle(Ready(1.0, 1.0)))
        elif name == "kill_agent":
            self._said.clear()
            self.agent = self.agent.restarted()
            self._done(self.agent.handle(Ready(1.0, 1.0)))
            self._done(self.agent.handle(Connected()))
        elif name == "replace_agent":
            self._said.clear()
            self._done(self.agent.handle(Drain(self.agent.now, successor=True)))
            self.agent = self.agent.restarted()
            self._done(self.agent.handle(Ready(1.0, 1.0)))
            self._done(self.agent.handle(Connected()))
        elif name == "kill_broker":
            self._done(self.agent.handle(Disconnected()))
            self._done(self.agent.handle(Connected()))
        else:
            self.agent.disk_full = name == "full_disk"
            self.advance(3.0)

    def _done(self, effects: Sequence[Effect]) -> None:
        """What broker and worker do of it."""
        for effect in effects:
            match effect:
                case Publish(message, key) if message.topic.startswith(REPLIES):
                    ours = not message.topic.startswith(OUTPUTS)
                    how = self.encoding if ours else "properties"
                    self._inbox.append(spoken.read(message, how))
                    if key and message.qos:
                        self._done(self.agent.acknowledged([effect]))
                case ToWorker(Cancel(job)):
                    text = self._said.pop(job, "")
                    self._done(self.agent.handle(self._ended(job, text, "cancelled")))
                case ToWorker(Start(key=job, top_logprobs=top)):
                    self._running.append(job)
                    if top is not None:
                        self._tops[job] = top
                case CheckStorage() if not self.agent.disk_full:
                    self._done(self.agent.handle(StorageBack()))

    def _ended(
        self, job: str, text: str, reason: str, calls: Sequence[dict[str, str]] = ()
    ) -> Done:
        made = [
            ToolCall(f"call-{number}", "function", CalledFunction(**call))
            for number, call in enumerate(calls)
        ]
        self._running = [each for each in self._running if each != job]
        top = self._tops.pop(job, None)
        logprobs = None if top is None else [_token(character, top) for character in text]
        return Done(
            *(job, text, "tool_calls" if made else reason),
            *(Usage(4, 3, 7), Timings(0, 1, 1, 1, 1)),
            calls=made,
            logprobs=logprobs,
        )


def _token(text: str, top: int) -> TokenLogprob:
    spelled = list(text.encode())
    tops = [TopLogprob(text, -float(number), spelled) for number in range(top)]
    return TokenLogprob(text, 0.0, spelled, tops)


# They are about Correlation Data as an id and about another Content Type.
PROPERTIES_ONLY = ("media-type", "no-id", "refused")
SPOKEN: list[tuple[str, spoken.Encoding]] = [
    *((name, "properties") for name in STORIES),
    *((name, "envelope") for name in STORIES if name not in PROPERTIES_ONLY),
    *((name, "cbor") for name in STORIES if name not in PROPERTIES_ONLY),
]


@pytest.mark.parametrize(("name", "encoding"), SPOKEN)
def test_the_session_follows(name: str, encoding: spoken.Encoding) -> None:
    story = STORIES[name]
    agent = Agent(device=DEVICE, pools=[POOL], rules=story.rules, **story.device)  # type: ignore[arg-type]  # limits
    Follower(story, name, Scripted(agent.ready(), encoding)).run()

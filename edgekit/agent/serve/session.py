"""The agent's prompts as a machine: events in, effects out, nothing touched.

`handle(event, now)` is the only method; `now` is monotonic seconds. A prompt goes
`queued -> running -> answered`; one runs at a time, the others wait in the order they came.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from edgekit.agent.serve.events import (
    Ack,
    Connected,
    Controlled,
    Drain,
    Effect,
    Event,
    Exit,
    Publish,
    Received,
    Spawn,
    Tick,
    ToWorker,
    WorkerLost,
)
from edgekit.agent.serve.pipe import Cancel, Delta, Done, Failed, Ready, Start
from edgekit.core import chat, wire
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig

REPLY_MARGIN_SECONDS = 0.25  # a running prompt stops this early, so that its error still arrives
STATUS_MIN_SECONDS = 1.0
STATUS_MAX_SECONDS = 30.0
MAX_STARTS = 2  # worker deaths on one prompt before it is given up as the culprit
RESPAWN_SECONDS = 1.0
HUNG_SECONDS = 60.0  # past a deadline that the worker itself looks at between two slices
STOPPING = "the device stops"


@dataclass(slots=True)
class _Job:
    key: str
    prompt: wire.Prompt
    reply: wire.Reply
    request: chat.ChatRequest
    deadline: float
    queued_at: float
    started_at: float = 0.0
    starts: int = 0
    seq: int = 0
    mute: bool = False  # started again after deltas went out: only the final is sent


@dataclass(slots=True)
class Session:
    """All prompts of one agent, and what it says of itself.

    Args:
        config: this device.
        bundle: the release it serves.
        release: the release's digest.
        agent_version: for the card.
        epoch: Unix seconds minus monotonic seconds at start, for `created` in answers.
    """

    config: AgentConfig
    bundle: BundleConfig
    release: str
    agent_version: str
    epoch: float
    _queue: deque[_Job] = field(default_factory=deque)
    _running: _Job | None = None
    _ready: bool = False
    _draining: float | None = None
    _exited: bool = False
    _status: wire.Status | None = None
    _status_at: float = 0.0
    _tok_s: float = 0.0
    _ttft_ms: float = 0.0
    ignored: int = 0  # messages that got no answer: retained, or no place to answer to

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """What is to be done now that `event` happened."""
        effects = self._expire(now)
        match event:
            case Received(message):
                effects += self._receive(message, now)
                effects.append(Ack(message.token))
            case Controlled(message):
                effects += self._control(message, now)
                effects.append(Ack(message.token))
            case Ready():
                self._ready = True
            case Delta():
                effects += self._delta(event, now)
            case Done():
                effects += self._done(event, now)
            case Failed(_, code, text):
                effects += self._error(self._finish(event.job), code, text, now)
            case WorkerLost():
                effects += self._worker_lost(now)
            case Connected():
                self._status = None
                effects.append(Publish(self._card()))
            case Drain(deadline):
                self._draining = deadline
            case Tick():
                pass
        effects += self._start_next(now)
        effects += self._say_status(now)
        effects += self._exit_when_drained(now)
        return tuple(effects)

    def _exit_when_drained(self, now: float) -> list[Effect]:
        if self._draining is None or self._exited:
            return []
        if self._running is not None and now < self._draining:
            return []
        job, self._running, self._exited = self._running, None, True
        effects = self._error(job, "draining", STOPPING, now)
        return [*effects, *self._say_status(now), Exit()]

    # --- prompts ------------------------------------------------------------------------------
    def _receive(self, message: wire.Inbound, now: float) -> list[Effect]:
        reply = wire.address_of(message, self.config.device)
        if reply is None:
            self.ignored += 1
            return []
        try:
            prompt = wire.parse_prompt(message, reply)
            request = chat.parse_body(prompt.payload)
            return self._admit(prompt, request, now)
        except wire.ProtocolError as error:
            return [_error_message(reply, error, seq=0, expiry=message.expiry_seconds or 60)]

    def _admit(self, prompt: wire.Prompt, request: chat.ChatRequest, now: float) -> list[Effect]:
        key = f"{prompt.requester}/{prompt.reply.prompt_id}"
        known = next((job for job in self._jobs() if job.key == key), None)
        if known is not None:
            if known.prompt.payload != prompt.payload:
                raise wire.ProtocolError("id_conflict", "this ek-id has another body")
            known.reply = prompt.reply
            return self._accepted(known, now)
        if self._draining is not None:
            raise wire.ProtocolError("draining", "the device stops and takes nothing new")
        if request.model is not None and request.model != self.bundle.name:
            raise wire.ProtocolError(
                "model_not_found", f"this device serves {self.bundle.name}", "model"
            )
        idle = self._ready and self._running is None
        if not idle and len(self._queue) >= self.config.queue_limit:
            raise wire.ProtocolError(
                "queue_full", f"{len(self._queue)} prompts are waiting", retry_after_ms=2000
            )
        job = _Job(key, prompt, prompt.reply, request, now + prompt.expiry_seconds, now)
        self._queue.append(job)
        return self._accepted(job, now)

    def _accepted(self, job: _Job, now: float) -> list[Effect]:
        if job.reply.final_only:
            return []
        position = 0 if job is self._running else self._queue.index(job) + bool(self._running)
        payload = msgspec.json.encode({"position": position})
        return [self._message(job, "accepted", payload, now)]

    def _control(self, message: wire.Inbound, now: float) -> list[Effect]:
        control = wire.parse_control(message.payload)
        requester = wire.requester_of(message.topic)
        if control is None or control.kind != "cancel" or message.retain:
            self.ignored += 1
            return []
        key = f"{requester}/{control.id}"
        if self._running is not None and self._running.key == key:
            return [ToWorker(Cancel(key))]
        job = next((job for job in self._queue if job.key == key), None)
        if job is None:
            return []
        self._queue.remove(job)
        return [self._final(job, "", "cancelled", chat.Usage(0, 0, 0), None, now)]

    def _start_next(self, now: float) -> list[Effect]:
        if self._draining is not None:
            waiting, self._queue = self._queue, deque()
            return [e for job in waiting for e in self._error(job, "draining", STOPPING, now)]
        if not self._ready or self._running is not None or not self._queue:
            return []
        job = self._running = self._queue.popleft()
        job.starts += 1
        job.started_at = now
        limit = self.bundle.max_answer_tokens
        return [
            ToWorker(
                Start(
                    job=job.key,
                    messages=[(m.role, m.text) for m in job.request.messages],
                    sampling=chat.sampling_of(job.request, self.bundle.search),
                    stops=job.request.stops,
                    answer_limit=min(job.request.answer_limit or limit, limit),
                    deadline=job.deadline - REPLY_MARGIN_SECONDS,
                )
            )
        ]

    def _delta(self, event: Delta, now: float) -> list[Effect]:
        job = self._running
        if job is None or job.key != event.job or job.mute:
            return []
        if job.reply.final_only or job.request.stream is False:
            return []
        payload = msgspec.json.encode(
            {"seq": job.seq, "choices": [{"index": 0, "delta": {"content": event.text}}]}
        )
        effect = self._message(job, "delta", payload, now)
        job.seq += 1
        return [effect]

    def _done(self, event: Done, now: float) -> list[Effect]:
        job = self._finish(event.job)
        if job is None:
            return []
        if event.usage.completion_tokens:
            self._tok_s = round(event.timings.predicted_per_second, 1)
            self._ttft_ms = round(event.timings.first_token_ms, 1)
        if event.finish_reason == "deadline":
            return self._error(job, "deadline_exceeded", "the message's expiry ran out", now)
        queue_ms = (job.started_at - job.queued_at) * 1e3
        timings = msgspec.structs.replace(event.timings, queue_ms=queue_ms)
        return [self._final(job, event.text, event.finish_reason, event.usage, timings, now)]

    def _worker_lost(self, now: float) -> list[Effect]:
        self._ready = False
        job = self._running
        self._running = None
        effects: list[Effect] = [Spawn(RESPAWN_SECONDS)]
        if job is None:
            return effects
        if job.starts >= MAX_STARTS:
            text = f"the model process died {job.starts} times on this prompt"
            return [*self._error(job, "worker_crashed", text, now), *effects]
        job.mute = job.seq > 0
        self._queue.appendleft(job)
        return effects

    def _expire(self, now: float) -> list[Effect]:
        """A prompt whose time ran out before it started gets no answer: nobody waits for it."""
        alive = [job for job in self._queue if now < job.deadline]
        self.ignored += len(self._queue) - len(alive)
        self._queue = deque(alive)
        if self._running is not None and now >= self._running.deadline + HUNG_SECONDS:
            return self._worker_lost(now)
        return []

    def _finish(self, key: str) -> _Job | None:
        job = self._running
        if job is None or job.key != key:
            return None
        self._running = None
        return job

    def _jobs(self) -> list[_Job]:
        return [*([self._running] if self._running else []), *self._queue]

    # --- messages -----------------------------------------------------------------------------
    def _final(
        self,
        job: _Job,
        text: str,
        reason: str,
        usage: chat.Usage,
        timings: chat.Timings | None,
        now: float,
    ) -> Effect:
        payload = chat.completion(
            prompt_id=job.reply.prompt_id,
            model=self.bundle.name,
            created=int(self.epoch + now),
            text=text,
            finish_reason=reason,
            usage=usage,
            timings=timings,
            deltas=job.seq,
        )
        return self._message(job, "final", payload, now, 499 if reason == "cancelled" else 200)

    def _error(self, job: _Job | None, code: str, text: str, now: float) -> list[Effect]:
        if job is None:
            return []
        error = wire.ProtocolError(code, text)
        return [_error_message(job.reply, error, job.seq, int(job.deadline - now))]

    def _message(
        self, job: _Job, kind: str, payload: bytes, now: float, status: int = 200
    ) -> Publish:
        return Publish(
            job.reply.message(
                kind,
                payload,
                seq=job.seq,
                expiry_seconds=int(job.deadline - now),
                status=status,
            )
        )

    def _card(self) -> wire.Outbound:
        card = wire.Card(
            device=self.config.device,
            release=self.release,
            model=self.bundle.name,
            version=self.bundle.version,
            context_length=self.bundle.context_length,
            max_answer_tokens=self.bundle.max_answer_tokens,
            queue_limit=self.config.queue_limit,
            agent=self.agent_version,
        )
        topic = wire.card_topic(self.config.device)
        return wire.Outbound(topic, msgspec.json.encode(card), retain=True)

    def _say_status(self, now: float) -> list[Effect]:
        state = "ready"
        if self._exited:
            state = "offline"
        elif self._draining is not None:
            state = "draining"
        elif not self._ready:
            state = "starting"
        elif self._running is not None:
            state = "busy"
        status = wire.Status(
            state,
            self.release,
            len(self._queue),
            int(self._running is not None),
            self._tok_s,
            self._ttft_ms,
        )
        last, age = self._status, now - self._status_at
        if last is not None:
            urgent = state in ("draining", "offline") and state != last.state
            changed = status != last and (urgent or age >= STATUS_MIN_SECONDS)
            if not changed and age < STATUS_MAX_SECONDS:
                return []
        self._status, self._status_at = status, now
        return [Publish(status_message(self.config.device, status))]


def status_message(device: str, status: wire.Status) -> wire.Outbound:
    """The retained status; with state `lost` it is the Will."""
    return wire.Outbound(wire.status_topic(device), msgspec.json.encode(status), retain=True)


def _error_message(reply: wire.Reply, error: wire.ProtocolError, seq: int, expiry: int) -> Publish:
    return Publish(
        reply.message("error", error.encode(), seq=seq, expiry_seconds=expiry, status=error.status)
    )

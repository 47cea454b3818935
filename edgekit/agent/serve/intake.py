"""What comes from requesters: prompts, and `cancel` and `query` of them. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from edgekit.agent.serve import replies
from edgekit.agent.serve.condition import Condition
from edgekit.agent.serve.events import Effect, ToWorker
from edgekit.agent.serve.job import Job
from edgekit.agent.serve.pipe import Cancel
from edgekit.agent.serve.prompts import Prompts
from edgekit.agent.serve.rate import Rate
from edgekit.agent.serve.states import Step, move
from edgekit.core import chat, envelope, topics, wire
from edgekit.core.config import AgentConfig

FULL_RETRY_MS = 2000  # a prompt ends every few seconds
NO_STORAGE = ("no_storage", "the device cannot write its journal")
REPLY_EXPIRY_SECONDS = 60  # of a reply to a message that has no expiry of its own


@dataclass(slots=True)
class Intake:
    """Takes prompts or refuses them.

    Args:
        config: this device.
        prompts: of the session.
        condition: of the device.
        draining: whether every new prompt is refused.
    """

    config: AgentConfig
    prompts: Prompts
    condition: Condition
    draining: bool = False
    _rate: Rate = field(init=False)

    def __post_init__(self) -> None:
        self._rate = Rate(self.config.requests_per_minute)

    def receive(self, message: wire.Inbound, now: float) -> list[Effect]:
        """A message on a request topic."""
        message = envelope.opened(message)
        reply = wire.address_of(message, self.config.device)
        if reply is None:
            self.prompts.ignored += 1
            return []
        try:
            return self._take(envelope.parse_prompt(message, reply), now)
        except wire.ProtocolError as error:
            self.prompts.metrics.rejected[error.code] += 1
            return [replies.refusal(reply, error, message.expiry_seconds or REPLY_EXPIRY_SECONDS)]

    def check_model(self, request: chat.ChatRequest) -> None:
        """Raises: ProtocolError, when another model is asked for."""
        if request.model is not None and request.model != self.prompts.model:
            raise wire.ProtocolError(
                "model_not_found", f"this device serves {self.prompts.model}", "model"
            )

    def _take(self, prompt: wire.Prompt, now: float) -> list[Effect]:
        key = f"{prompt.requester}/{prompt.reply.prompt_id}"
        written = (
            b"cbor\0" if prompt.reply.encoding == "cbor" else b""
        )  # the same bytes, another body
        body_hash = hashlib.sha256(written + prompt.payload).digest()
        known = self.prompts.ledger.get(key)
        if known is not None:
            same = known.body_hash == body_hash
            # Simple clients send every prompt with the same Correlation Data and no ek-id.
            if not same and (prompt.named or known.outcome is None):
                raise wire.ProtocolError("id_conflict", "this ek-id has another body")
            handed_back = known.outcome is not None and known.outcome.code in wire.HANDED_BACK
            if same and not handed_back:
                return self._attach(known, prompt, now)
        self._limit_rate(prompt.requester, now)
        request = chat.parse_body(prompt.payload, prompt.reply.encoding)
        deadline = now + prompt.expiry_seconds
        job = Job(
            key,
            prompt.requester,
            prompt.reply,
            prompt.payload,
            body_hash,
            queued_at=now,
            deadline=deadline,
            keep_until=deadline,
            request=request,
            state=move(None, Step.TAKEN),
        )
        self._admit(job, request, now)
        if known is not None and self.prompts.ledger.get(key) is known:
            self.prompts.ledger.drop(known)
        self.prompts.ledger.add(job)
        self.prompts.ledger.touch(job)
        self.prompts.queue.add(job)
        return self.prompts.accepted(job, now)

    def _limit_rate(self, requester: str, now: float) -> None:
        """Raises: ProtocolError, when it has asked too often; a prompt that is known is none."""
        wait_ms = self._rate.take(requester, now)
        if wait_ms:
            text = f"more than {self.config.requests_per_minute} prompts a minute"
            raise wire.ProtocolError("rate_limited", text, retry_after_ms=wait_ms)

    def _admit(self, job: Job, request: chat.ChatRequest, now: float) -> None:
        """Raises: ProtocolError, when there is no room for a new prompt."""
        if self.draining:
            raise wire.ProtocolError("draining", "the device stops and takes nothing new")
        if not self.prompts.storing:
            raise wire.ProtocolError(*NO_STORAGE)
        self.check_model(request)
        if len(request.messages) > self.config.max_messages:
            text = f"{len(request.messages)} messages; at most {self.config.max_messages}"
            raise wire.ProtocolError("invalid_request", f"{text} (max_messages)", "messages")
        queue = self.prompts.queue
        waits = not self.prompts.can_start(job, now)
        refusal = self.condition.storage_refusal() or self.condition.refusal(waits=waits)
        if refusal is not None:
            raise refusal
        if waits:
            full = ""
            if len(queue) >= self.config.queue_limit:
                full = f"{len(queue)} prompts are waiting"
            elif queue.count(job.requester) >= self.config.requester_limit:
                full = f"{queue.count(job.requester)} prompts of yours are waiting"
            if full:
                raise wire.ProtocolError("queue_full", full, retry_after_ms=FULL_RETRY_MS)
        if not self.prompts.ledger.make_room_of(job.requester, job.size_bytes):
            full = "your share of the journal is full of undelivered answers"
            raise wire.ProtocolError("queue_full", full, retry_after_ms=FULL_RETRY_MS)
        if not self.prompts.ledger.make_room(job.size_bytes):
            raise wire.ProtocolError("no_storage", "the journal is full of undelivered answers")

    def _attach(self, job: Job, prompt: wire.Prompt, now: float) -> list[Effect]:
        """The same prompt again: from now on its replies go to the new address."""
        job.reply = prompt.reply
        if job.outcome is None:
            self.prompts.ledger.touch(job)
            return self.prompts.accepted(job, now)
        job.sent = False
        self.prompts.ledger.touch(job, can_wait=True)
        job.deadline = max(job.deadline, now + prompt.expiry_seconds)
        return self.prompts.send(job, now)

    # --- control ------------------------------------------------------------------------------
    def control(self, message: wire.Inbound, now: float) -> list[Effect]:
        """A message on a control topic."""
        message = envelope.opened(message)
        requester = topics.requester_of(message.topic)
        expiry = message.expiry_seconds or REPLY_EXPIRY_SECONDS
        # Of a pool's members only the one that has the prompt answers.
        mine = message.topic == topics.control_topic(self.config.device, requester)
        try:
            envelope.check_version(message)
            control = envelope.parse_control(message)
        except wire.ProtocolError as error:
            address = wire.address_of(message, self.config.device)
            if address is not None and mine:
                return [replies.refusal(address, error, expiry)]
            control = None
        if control is None or not requester or message.retain:
            self.prompts.ignored += 1
            return []
        job = self.prompts.ledger.get(f"{requester}/{control.id}")
        to = wire.control_address_of(message, control, self.config.device)
        if job is None:
            return [replies.state(to, "unknown", None, expiry)] if to is not None and mine else []
        if job.outcome is not None:
            known = self.prompts.storing  # else it may be unsaid yet
            return [replies.outcome(job, to or job.reply, expiry)] if known else []
        if control.kind == "query":
            position = self.prompts.position(job, now)
            return [replies.state(to or job.reply, job.state, position, expiry)]
        if job.key in self.prompts.running:
            if job.cancelling:
                return []
            job.cancelling = True
            return [ToWorker(Cancel(job.key))]
        self.prompts.queue.remove(job)
        return self.prompts.cancelled(job, now)

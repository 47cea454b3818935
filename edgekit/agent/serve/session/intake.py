"""Handles the messages of requesters: prompts, `cancel` and `query`. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.agent.serve.pipe import Cancel
from edgekit.agent.serve.session import replies
from edgekit.agent.serve.session.condition import Condition
from edgekit.agent.serve.session.events import Effect, ToWorker
from edgekit.agent.serve.session.prompt import Prompt
from edgekit.agent.serve.session.prompts import Prompts
from edgekit.agent.serve.session.rate import Rate, Spread
from edgekit.agent.serve.session.states import PromptStep, move
from edgekit.core import pictures
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.logprobs import MAX_BYTES, most_tokens
from edgekit.core.chat.request import ChatRequest
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import envelope, topics, wire

FULL_RETRY_MS = 2000  # a prompt ends every few seconds
NO_STORAGE = ("no_storage", "the device cannot write its journal")
REPEATS_PER_PROMPT = 4  # allowed for each new prompt; the protocol asks for fewer
MIN_REPEATS_PER_MINUTE = 120  # room for 30 old prompts, each repeated or queried every 15 s
REPLY_EXPIRY_SECONDS = 60  # of a reply to a message without an expiry


@dataclass(slots=True)
class Intake:
    """Takes prompts or refuses them.

    Args:
        config: this device.
        prompts: of the session.
        condition: of the device.
        answer_cap: the most tokens of an answer.
        options: what a request sets for the chat template; raises ProtocolError.
        takes_pictures: whether the model does.
        draining: whether the device refuses every new prompt.
    """

    config: AgentConfig
    prompts: Prompts
    condition: Condition
    answer_cap: int
    options: Callable[[ChatRequest], object]
    takes_pictures: bool = False
    draining: bool = False
    max_body_bytes: int = field(init=False)
    _spread: Spread = field(default_factory=Spread)
    _rate: Rate = field(init=False)
    _repeats: Rate = field(init=False)  # repeats of known prompts, cancels and queries

    def __post_init__(self) -> None:
        per_minute = self.config.requests_per_minute
        repeats = max(REPEATS_PER_PROMPT * per_minute, MIN_REPEATS_PER_MINUTE)
        self.max_body_bytes = wire.max_body_bytes(
            self.takes_pictures, self.config.images_per_prompt
        )
        self._rate = Rate(per_minute)
        self._repeats = Rate(repeats if per_minute else 0)

    def receive(self, message: wire.Inbound, now: float) -> list[Effect]:
        """Handle a message on a request topic."""
        message = envelope.opened(message)
        reply = wire.address_of(message, self.config.device)
        if reply is None:
            return self._ignore()
        try:
            return self._take(envelope.parse_prompt(message, reply, self.max_body_bytes), now)
        except wire.ProtocolError as error:
            self.prompts.metrics.rejected[error.code] += 1
            if error.retry_after_ms and error.code != "rate_limited":  # that one's time is exact
                error.retry_after_ms = self._spread.wait_ms(error.retry_after_ms, now)
            return [replies.refusal(reply, error, _reply_expiry(message))]

    def check_model(self, request: ChatRequest) -> None:
        """Raises: ProtocolError, when the prompt names another model, or shows this one pictures
        that it does not take."""
        if request.model is not None and request.model != self.prompts.model:
            raise wire.ProtocolError(
                "model_not_found", f"this device serves {self.prompts.model}", "model"
            )
        per_message, per_prompt = pictures.allowed(self.config.images_per_prompt)
        for number, message in enumerate(request.messages):
            if not message.picture_count:
                continue
            where = f"messages[{number}].content"
            if not self.takes_pictures:
                text = f"{self.prompts.model} reads text alone: this device takes no pictures"
                where += f"[{message.picture_parts[0]}]"
                raise wire.ProtocolError("unsupported_parameter", text, where)
            if message.picture_count > per_message:
                text = f"{message.picture_count} pictures in one message; at most {per_message}"
                raise wire.ProtocolError("invalid_request", f"{text} (images_per_prompt)", where)
        if request.picture_count > per_prompt:
            text = f"{request.picture_count} pictures in all messages; at most {per_prompt}"
            raise wire.ProtocolError("invalid_request", f"{text} (images_per_prompt)", "messages")
        if self.takes_pictures and (size := request.text_bytes) > wire.MAX_BODY_BYTES:
            text = f"the texts have {size} bytes; at most {wire.MAX_BODY_BYTES}"
            raise wire.ProtocolError("payload_too_large", text, "messages")

    def _take(self, inbound: wire.InboundPrompt, now: float) -> list[Effect]:
        key = f"{inbound.requester}/{inbound.reply.prompt_id}"
        # the same bytes are another body in another encoding
        written = b"cbor\0" if inbound.reply.encoding == "cbor" else b""
        body_hash = hashlib.sha256(written + inbound.payload).digest()
        known = self.prompts.ledger.get(key)
        if known is not None and not _begins_anew(known, inbound, body_hash):
            self._limit(self._repeats, "repeats and controls", inbound.requester, now)
            if known.body_hash != body_hash:
                raise wire.ProtocolError("id_conflict", "this ek-id has another body")
            return self._attach(known, inbound, now)
        self._limit(self._rate, "prompts", inbound.requester, now)
        request = parse_body(inbound.payload, inbound.reply.encoding)
        deadline = now + inbound.expiry_seconds
        prompt = Prompt(
            key,
            inbound.requester,
            inbound.reply,
            inbound.payload,
            body_hash,
            queued_at=now,
            deadline=deadline,
            keep_until=deadline,
            request=request,
            state=move(None, PromptStep.TAKEN),
        )
        self.admit(prompt, request, now)
        if known is not None and self.prompts.ledger.get(key) is known:
            self.prompts.ledger.drop(known)
        self.prompts.ledger.add(prompt)
        self.prompts.ledger.touch(prompt)
        self.prompts.queue.add(prompt)
        return self.prompts.accepted(prompt, now)

    def _limit(self, rate: Rate, what: str, requester: str, now: float) -> None:
        """Raises: ProtocolError, when the requester has sent too many."""
        wait_ms = rate.take(requester, now)
        if wait_ms:
            text = f"more than {rate.per_minute} {what} a minute"
            raise wire.ProtocolError("rate_limited", text, retry_after_ms=wait_ms)

    def admit(self, prompt: Prompt, request: ChatRequest, now: float) -> None:
        """Raises: ProtocolError, when the device has no room for a new prompt."""
        if self.draining:
            raise wire.ProtocolError("draining", "the device stops and takes nothing new")
        if not self.prompts.storing:
            raise wire.ProtocolError(*NO_STORAGE)
        self.check_model(request)
        self._check_logprobs(request)
        self.options(request)
        if len(request.messages) > self.config.max_messages:
            text = f"{len(request.messages)} messages; at most {self.config.max_messages}"
            raise wire.ProtocolError("invalid_request", f"{text} (max_messages)", "messages")
        queue = self.prompts.queue
        waits = not self.prompts.can_start(prompt, now)
        refusal = self.condition.storage_refusal() or self.condition.refusal(waits=waits)
        if refusal is not None:
            raise refusal
        if waits:
            full = ""
            if len(queue) >= self.config.queue_limit:
                full = f"{len(queue)} prompts are waiting"
            elif queue.count(prompt.requester) >= self.config.requester_limit:
                full = f"{queue.count(prompt.requester)} prompts of yours are waiting"
            if full:
                raise wire.ProtocolError("queue_full", full, retry_after_ms=FULL_RETRY_MS)
        if not self.prompts.ledger.make_room_of(prompt.requester, prompt.size_bytes):
            full = "your waiting prompts and undelivered answers fill your share of the journal"
            raise wire.ProtocolError("queue_full", full, retry_after_ms=FULL_RETRY_MS)
        if not self.prompts.ledger.make_room(prompt.size_bytes):
            raise wire.ProtocolError("no_storage", "the journal is full of undelivered answers")

    def _check_logprobs(self, request: ChatRequest) -> None:
        """Raises: ProtocolError, when the answer would have more log-probabilities than it may."""
        top = request.top_logprobs_asked
        if top is None or request.answer_limit is None:  # without a limit the answer ends in time
            return
        asked, most = min(request.answer_limit, self.answer_cap), most_tokens(top)
        if asked > most:
            text = (
                f"log-probabilities of {asked} tokens, with {top} others in the place of each, are "
                f"more than {MAX_BYTES >> 10} KiB; ask for at most {most} tokens"
            )
            field = "top_logprobs" if top else "logprobs"
            raise wire.ProtocolError("invalid_request", text, field)

    def _attach(self, prompt: Prompt, inbound: wire.InboundPrompt, now: float) -> list[Effect]:
        """Handle a repeated prompt: from now on its replies go to the new address."""
        if prompt.reply != inbound.reply:  # else the journal has this address already
            self.prompts.ledger.readdress(prompt, inbound.reply)
        if prompt.outcome is None:
            return self.prompts.accepted(prompt, now)
        prompt.deadline = max(prompt.deadline, now + inbound.expiry_seconds)
        return self.prompts.send(prompt, now)

    # --- control ------------------------------------------------------------------------------
    def control(self, message: wire.Inbound, now: float) -> list[Effect]:
        """Handle a message on a control topic; drop it above the rate, as controls have QoS 0."""
        message = envelope.opened(message)
        requester = topics.requester_of(message.topic)
        if not requester or message.retain or self._repeats.take(requester, now):
            return self._ignore()
        try:
            envelope.check_version(message)
        except wire.ProtocolError as error:
            address = wire.address_of(message, self.config.device)
            if address is None or not self._asked_alone(message):
                return self._ignore()
            return [replies.refusal(address, error, _reply_expiry(message))]
        control = envelope.parse_control(message)
        if control is None:
            return self._ignore()
        return self._control(message, control, now)

    def _control(self, message: wire.Inbound, control: wire.Control, now: float) -> list[Effect]:
        expiry = _reply_expiry(message)
        prompt = self.prompts.ledger.get(f"{topics.requester_of(message.topic)}/{control.id}")
        to = wire.control_address_of(message, control, self.config.device)
        if prompt is None:
            if to is None or not self._asked_alone(message):
                return []
            return [replies.state(to, "unknown", None, expiry)]
        if prompt.outcome is not None:
            known = self.prompts.storing  # else the journal may not have the outcome yet
            return self.prompts.repeat(prompt, to or prompt.reply, expiry) if known else []
        if control.kind == "query":
            position = self.prompts.position(prompt, now)
            return [replies.state(to or prompt.reply, prompt.state, position, expiry)]
        if prompt.key in self.prompts.running:
            if prompt.cancelling:
                return []
            prompt.cancelling = True
            return [ToWorker(Cancel(prompt.key))]
        self.prompts.queue.remove(prompt)
        return self.prompts.cancelled(prompt, now)

    def _asked_alone(self, message: wire.Inbound) -> bool:
        """Whether only this device was asked; in a pool only the device with the prompt answers."""
        requester = topics.requester_of(message.topic)
        return message.topic == topics.control_topic(self.config.device, requester)

    def _ignore(self) -> list[Effect]:
        self.prompts.ignored += 1
        return []


def _reply_expiry(message: wire.Inbound) -> int:
    """The expiry in seconds of a reply to a message that is not stored."""
    return min(message.expiry_seconds or REPLY_EXPIRY_SECONDS, wire.MAX_EXPIRY_SECONDS)


def _begins_anew(known: Prompt, inbound: wire.InboundPrompt, body_hash: bytes) -> bool:
    """Whether a prompt with a known id is a new one, or the same one after it was handed back."""
    if known.body_hash == body_hash:
        return known.outcome is not None and known.outcome.code in wire.HANDED_BACK
    # Simple clients send every prompt with the same Correlation Data and no ek-id.
    return known.outcome is not None and not inbound.named

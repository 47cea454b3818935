"""The rules of a device: messages become prompts, each rule as a requester of its own. Pure.

A rule's prompt goes through the same admission, queue and journal as a client's. Its body is made
of the rule as it is now; the journal keeps the messages, and which rule took them.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from edgekit.agent.serve.session.events import Effect
from edgekit.agent.serve.session.intake import Intake
from edgekit.agent.serve.session.prompt import Prompt
from edgekit.agent.serve.session.prompts import Prompts
from edgekit.agent.serve.session.rules.window import RuleWindow, Taken
from edgekit.agent.serve.session.states import PromptStep, move
from edgekit.core.chat.request import ChatRequest
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import wire
from edgekit.core.rules.check import request_of
from edgekit.core.rules.message import Fill, Origin
from edgekit.core.rules.rule import requester_name

RULES_SHARE = 2  # all rules together have at most half of the queue
DROPPED = "dropped_oldest"  # a prompt that gave way to a newer message


@dataclass(slots=True)
class Rules:
    """All rules of one device.

    Args:
        config: this device.
        prompts: of the session.
        intake: admits prompts.
        start_next: starts the prompts that can run now.

    Raises:
        UsageError: the prompt of a rule is none that this agent serves.
    """

    config: AgentConfig
    prompts: Prompts
    intake: Intake
    start_next: Callable[[float], list[Effect]]
    _windows: dict[str, RuleWindow] = field(init=False)
    _requests: Mapping[str, ChatRequest] = field(init=False)

    def __post_init__(self) -> None:
        rules = self.config.rules
        self._windows = {name: RuleWindow(rule) for name, rule in rules.items()}
        self._requests = {name: request_of(name, rule) for name, rule in rules.items()}

    def heard(self, message: wire.Inbound, now: float) -> list[Effect]:
        """Handle a message on a topic that a rule listens to."""
        effects: list[Effect] = []
        for name, window in self._windows.items():
            if window.rule.hears(message.topic):
                for fate in window.hear(message, now):
                    self.prompts.metrics.rules[name, fate] += 1
                if window.due(now):
                    effects += self._ask(name, window, now)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Make prompts of the windows that are over."""
        due = [(name, window) for name, window in self._windows.items() if window.due(now)]
        return [effect for name, window in due for effect in self._ask(name, window, now)]

    def close(self, now: float) -> list[Effect]:
        """Make prompts of all windows: the agent ends, and its successor has the journal alone."""
        waiting = [(name, window.take(now)) for name, window in self._windows.items()]
        return [
            effect for name, taken in waiting if taken for effect in self._put(name, taken, now)
        ]

    # --- the journal --------------------------------------------------------------------------
    def restore(self, prompt: Prompt) -> bool:
        """Take over a prompt of the journal.

        Returns:
            Whether its rule is still there and still publishes where it did; else nobody wants it.
        """
        origin = prompt.origin
        rule = None if origin is None else self.config.rules.get(origin.rule)
        if origin is None or rule is None:
            return False
        if prompt.reply.topic != rule.output(self.config.device, origin.rule):
            return False
        self._windows[origin.rule].restore(prompt.body_hash, prompt.queued_at)
        return True

    def request_of(self, origin: Origin) -> ChatRequest:
        """The prompt of a rule, its template in the place of the user's text."""
        return self._requests[origin.rule]

    def abandon(self, prompt: Prompt) -> list[Effect]:
        """Forget a prompt that will not be answered; if it is a rule's, its messages too."""
        self._take_anew(prompt)
        return self.prompts.abandon(prompt)

    def _take_anew(self, prompt: Prompt) -> None:
        """Let the messages of a rule's prompt count once more if they are published again."""
        if prompt.origin is not None:
            self._windows[prompt.origin.rule].forget(prompt.body_hash, prompt.queued_at)

    # --- prompts ------------------------------------------------------------------------------
    def _ask(self, name: str, window: RuleWindow, now: float) -> list[Effect]:
        return self._put(name, window.take(now), now)

    def _put(self, name: str, taken: list[Taken], now: float) -> list[Effect]:
        """Queue the prompt of these messages; where it has no place the rule says what goes."""
        prompt = self._prompt(name, taken, now)
        effects = self.start_next(now)  # first: earlier prompts take free slots
        while True:
            try:
                self._check_share(prompt, now)
                self.intake.admit(prompt, self._requests[name], now)
            except wire.ProtocolError as error:
                oldest = self._oldest(name) if error.code == "queue_full" else None
                if oldest is None or self.config.rules[name].when_full == "drop_new":
                    self.prompts.metrics.rules[name, error.code] += 1
                    self._take_anew(prompt)
                    assert prompt.origin is not None, "it is a rule's"
                    return [*effects, *self.prompts.say_unanswered(prompt.origin, error)]
                self.prompts.metrics.rules[name, DROPPED] += 1
                effects += self.abandon(oldest)
                continue
            self.prompts.ledger.add(prompt)
            self.prompts.ledger.touch(prompt)
            self.prompts.queue.add(prompt)
            return effects

    def _check_share(self, prompt: Prompt, now: float) -> None:
        """Raises: ProtocolError, when half of the queue waits for rules: clients need room too."""
        waiting = len(self._waiting)
        if waiting >= self._most and not self.prompts.can_start(prompt, now):
            raise wire.ProtocolError("queue_full", f"{waiting} prompts of rules are waiting")

    @property
    def _waiting(self) -> list[Prompt]:
        return [one for one in self.prompts.queue if one.origin is not None]

    @property
    def _most(self) -> int:
        """How many prompts of all rules may wait."""
        return max(1, self.config.queue_limit // RULES_SHARE)

    def _oldest(self, name: str) -> Prompt | None:
        """The prompt that gives way to the rule's next one.

        It is the rule's own that has waited longest. Without one, where rules have all of their
        places, it is that of the rule with the most, if those are several.
        """
        waiting = self._waiting
        counts = Counter(one.requester for one in waiting)
        giving = requester_name(name)
        if not counts[giving]:
            giving = max(counts, key=counts.__getitem__, default="")
            if len(waiting) < self._most or counts[giving] < 2:
                return None
        return next(one for one in waiting if one.requester == giving)

    def _prompt(self, name: str, taken: list[Taken], now: float) -> Prompt:
        rule, device = self.config.rules[name], self.config.device
        latest = taken[-1]
        digests = b"".join(one.digest for one in taken)
        # the time makes it another prompt where equal messages are more than a redelivery
        moment = struct.pack("!d", self.prompts.epoch + now)
        # two rules, and two devices, may hear one message
        hearer = f"{device}/{name}".encode()
        identity = hashlib.sha256(digests + moment + hearer).hexdigest()
        trace = latest.traceparent or f"00-{identity[:32]}-{identity[32:48]}-00"
        deadline = now + rule.deadline_seconds
        return Prompt(
            f"{requester_name(name)}/{identity[:32]}",
            requester_name(name),
            wire.ReplyTo(
                topic=rule.output(device, name),
                correlation=b"",
                prompt_id=identity[:32],
                device=device,
                final_only=True,
                traceparent=trace,
            ),
            msgspec.msgpack.encode(Fill(name, device, [one.message for one in taken])),
            digests,
            queued_at=now,
            deadline=deadline,
            keep_until=max(deadline, now + rule.repeat_seconds),  # so long it must be known
            request=self._requests[name],
            state=move(None, PromptStep.TAKEN),
            origin=Origin(
                name, latest.message.topic, len(taken), 1 + max(one.hops for one in taken)
            ),
        )

"""Gives prompts to the worker and handles its messages: deltas, outcomes, its deaths.

The counterpart of `intake`. Pure: methods change the prompts and return effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.agent.serve.pipe import Done, Generated, Heartbeat, Ready, Refused, Start
from edgekit.agent.serve.session import replies
from edgekit.agent.serve.session.events import Effect, Event, GiveUp, Spawn, ToWorker, Warn
from edgekit.agent.serve.session.presence import Presence, answer_cap
from edgekit.agent.serve.session.prompt import Prompt
from edgekit.agent.serve.session.prompts import Prompts
from edgekit.agent.serve.session.states import PromptStep
from edgekit.core.chat.capabilities import REASONING
from edgekit.core.chat.logprobs import most_tokens
from edgekit.core.chat.request import ChatRequest
from edgekit.core.chat.sampling import sampling_of
from edgekit.core.chat.thinking import template_options
from edgekit.core.chat.tools.forcing import constraint
from edgekit.core.chat.tools.formats import ToolFormat
from edgekit.core.chat.tools.prompt import calling, told
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.core.protocol import wire
from edgekit.errors import EdgekitError

REPLY_MARGIN_SECONDS = 0.25  # a running prompt stops this early: its error must still arrive
MAX_DEATHS = 2  # of the worker on one prompt; then the prompt counts as the cause and fails
MAX_STARTS = 4  # counts the agent's deaths too: a prompt may take the whole device down
MAX_FAILED_LOADS = 2  # then the agent ends: a trial is rolled back, else the supervisor waits
RESPAWN_SECONDS = 1.0
HUNG_SECONDS = 60.0  # past the deadline, which the worker itself checks between two slices
FROM_WORKER = (Generated, Heartbeat, Done, Refused, Ready)


@dataclass(slots=True)
class Dispatch:
    """Gives prompts to the worker, one worker after another.

    Args:
        config: this device.
        bundle: the release it serves.
        prompts: of the session.
        presence: gets the speed of the model.
        tools: how the model is told of tools and calls them.
    """

    config: AgentConfig
    bundle: BundleConfig
    prompts: Prompts
    presence: Presence
    tools: ToolFormat
    model: Ready | None = None  # of the worker that loaded the model last
    _failed_loads: int = 0  # deaths of workers before one had loaded the model
    _heard_at: float | None = None  # when the worker last sent a message or had nothing to do

    # --- whether the worker makes progress ----------------------------------------------------
    @property
    def owed(self) -> bool:
        """Whether the worker has something to do: load the model, or run a prompt."""
        prompts = self.prompts
        return bool(not prompts.slots or prompts.running or prompts.stopping)

    def hear(self, event: Event, now: float) -> None:
        """Note when the worker was heard last. Call it before an event is handled."""
        if isinstance(event, FROM_WORKER) or not self.owed or self._heard_at is None:
            quiet = event.quiet_seconds if isinstance(event, Heartbeat) else 0.0
            self._heard_at = now + quiet

    def silent_seconds(self, now: float) -> float:
        """Return for how long the worker had something to do and sent nothing, in seconds."""
        return now - self._heard_at if self._heard_at is not None else 0.0

    # --- to the worker ------------------------------------------------------------------------
    def start_all(self, now: float) -> list[Effect]:
        """Start every prompt that can run now."""
        effects: list[Effect] = []
        while (prompt := self.prompts.next_to_start(now)) is not None:
            try:
                start = self._start_of(prompt)
            except wire.ProtocolError as error:  # another release took it, which served more
                effects += self._not_started(prompt, error, now)
            except (
                Exception
            ) as error:  # a defect that one prompt triggers must not leave it waiting
                text = f"the device cannot run this prompt: {error!r}"
                effects.append(Warn(f"{prompt.key}: {text}"))
                refusal = wire.ProtocolError("internal", text)
                effects += self._not_started(prompt, refusal, now)
            else:
                effects.append(self._started(prompt, start, now))
        return effects

    def _not_started(self, prompt: Prompt, error: wire.ProtocolError, now: float) -> list[Effect]:
        return self.prompts.end(prompt, PromptStep.REFUSED, replies.error_outcome(error), now)

    def _started(self, prompt: Prompt, start: Start, now: float) -> Effect:
        prompt.move(PromptStep.STARTED)
        prompt.starts += 1
        prompt.started_at = now
        self.prompts.running[prompt.key] = prompt
        self.prompts.ledger.touch(prompt)
        return ToWorker(start)

    def _start_of(self, prompt: Prompt) -> Start:
        """Return what the worker gets; nothing is changed, so that a failure leaves nothing."""
        request = prompt.request
        assert request is not None, "a prompt that ended does not wait"
        limit = answer_cap(self.config, self.bundle, self.model)
        if request.top_logprobs_asked is not None:
            limit = min(limit, most_tokens(request.top_logprobs_asked))
        messages, tools = told(request, self.tools)
        bound = constraint(request, self.tools)
        return Start(
            key=prompt.key,
            requester=prompt.requester,
            messages=messages,
            sampling=sampling_of(request, self.bundle.search),
            stops=request.stops,
            answer_limit=min(request.answer_limit or limit, limit),
            deadline=prompt.deadline - REPLY_MARGIN_SECONDS,
            prompt_limit=self.config.max_prompt_tokens,
            tools=tools,
            options=self.options(request),
            calling=calling(request, self.tools),
            top_logprobs=request.top_logprobs_asked,
            sample=(
                self.config.canary_samples > 0
                and request.store is not False
                and not request.picture_count  # a later release has no pictures for its rows
                and bound is None  # its tokens are not what the model likes best
            ),
            constraint=bound,
            fill=prompt.payload if prompt.origin is not None else b"",
        )

    def options(self, request: ChatRequest) -> dict[str, Any]:
        """Return what a request sets for the model's chat template.

        Raises:
            ProtocolError: the model does not serve it; before a model is loaded nothing is.
        """
        model = self.model or Ready(0.0, 0.0)
        thinks = REASONING in model.capabilities
        return template_options(request, model.template_options, thinks)

    # --- from the worker ----------------------------------------------------------------------
    def ready(self, model: Ready) -> bool:
        """Handle that a worker has loaded the model.

        Returns:
            Whether its limits differ from those of the worker before: after a crash the device
            may have less free memory.
        """
        self.prompts.slots = model.slots
        before, self.model = self.model, model
        return before is not None and before.served != model.served

    def delta(self, event: Generated, now: float) -> list[Effect]:
        """Send a piece of an answer."""
        prompt = self.prompts.running.get(event.key)
        if prompt is None or prompt.request is None or prompt.mute or not self.prompts.connected:
            return []
        if prompt.reply.final_only or prompt.request.stream is False:
            return []
        effect = replies.delta(prompt, event, now)
        prompt.seq += 1
        return [effect]

    def done(self, event: Done, now: float) -> list[Effect]:
        """Finish a prompt whose answer is whole."""
        prompt = self.prompts.ended(event.key)
        if prompt is None:
            return []
        self.prompts.metrics.used(event.usage)
        if event.usage.completion_tokens:
            self.presence.tok_s = round(event.timings.predicted_per_second, 1)
            self.presence.ttft_ms = round(event.timings.first_token_ms, 1)
        if event.finish_reason == "deadline":
            text = "the message's expiry ran out"
            return self.prompts.fail(prompt, PromptStep.EXPIRED, "deadline_exceeded", text, now)
        queue_ms = (prompt.started_at - prompt.queued_at) * 1e3
        timings = msgspec.structs.replace(event.timings, queue_ms=queue_ms)
        if event.finish_reason != "cancelled":
            tokens = event.usage.completion_tokens
            self.prompts.metrics.answered(now - prompt.queued_at, timings, tokens)
        return self.prompts.finish(prompt, event, timings, now)

    def failed(self, event: Refused, now: float) -> list[Effect]:
        """Fail a prompt that the worker refuses."""
        prompt = self.prompts.ended(event.key)
        if prompt is None:
            return []
        error = wire.ProtocolError(event.code, event.message, event.param)
        return self.prompts.end(prompt, PromptStep.REFUSED, replies.error_outcome(error), now)

    # --- deaths of the worker -----------------------------------------------------------------
    def lost(self, now: float) -> list[Effect]:
        """Requeue the prompts of a worker that died, and start another worker."""
        self.prompts.metrics.worker_restarts += 1
        self.prompts.slots = 0
        self.prompts.stopping.clear()
        effects: list[Effect] = []
        for prompt in reversed(tuple(self.prompts.running.values())):
            prompt.deaths += 1
            effects += self.requeue(prompt, now)
        if self.model is None:
            self._failed_loads += 1
            if self._failed_loads == MAX_FAILED_LOADS:
                text = f"the model process ended {MAX_FAILED_LOADS} times before it had answered"
                return [*effects, GiveUp(EdgekitError(text))]
        return [*effects, Spawn(RESPAWN_SECONDS)]

    def hung(self, now: float) -> list[Effect]:
        """Treat a worker that still runs a prompt long after its deadline as dead."""
        running = self.prompts.running.values()
        if any(now >= prompt.deadline + HUNG_SECONDS for prompt in running):
            return self.lost(now)
        return []

    def hand_over(self, prompt: Prompt, now: float) -> list[Effect]:
        """Queue a running prompt for the agent that takes this one's place: that is no death."""
        prompt.starts = min(prompt.starts, MAX_STARTS - 1)
        return self.requeue(prompt, now)

    def requeue(self, prompt: Prompt, now: float) -> list[Effect]:
        """Queue a prompt again, unless it caused too many deaths or its requester cancelled it."""
        self.prompts.running.pop(prompt.key, None)
        prompt.move(PromptStep.REQUEUED)
        if prompt.cancelling:
            return self.prompts.cancelled(prompt, now)
        if prompt.deaths >= MAX_DEATHS or prompt.starts >= MAX_STARTS:
            text = f"the model process died {prompt.deaths} times on this prompt"
            if prompt.deaths < MAX_DEATHS:
                text = f"{prompt.starts} attempts at this prompt ended with the agent's death"
            return self.prompts.fail(prompt, PromptStep.CRASHED, "worker_crashed", text, now)
        prompt.mute = prompt.mute or prompt.seq > 0
        self.prompts.queue.put_back(prompt)
        self.prompts.ledger.touch(prompt)
        return []

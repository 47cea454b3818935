"""The retained card and status that a device publishes, and how often it publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from edgekit.agent.serve.pipe import Ready
from edgekit.agent.serve.session.events import Effect, ForgetShown, Publish, Readings, Warn
from edgekit.agent.serve.session.replies import status_message
from edgekit.core import pictures
from edgekit.core.chat import capabilities
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.core.protocol import payloads, topics, wire
from edgekit.core.protocol.discovery import discovery, object_id
from edgekit.core.protocol.exposition import Family, as_json
from edgekit.core.protocol.reasons import FAILURE
from edgekit.core.quality import QualityReport

STATUS_MIN_SECONDS = 1.0
STATUS_MAX_SECONDS = 30.0
METRICS_SECONDS = 30.0
MOST_LOST = 3
LEFT_OUT = (
    f"is left out: {MOST_LOST} connections ended before the broker had taken it; check its ACL for "
    "this device (home_assistant), then start the device again"
)
URGENT = ("read_only", "draining", "offline")


@dataclass(slots=True)
class Presence:
    """The retained card and status of one device."""

    device: str
    _said: wire.Status | None = None
    _said_at: float = 0.0
    _state: str = ""
    _since: float = 0.0
    tok_s: float = field(default=0.0)
    ttft_ms: float = field(default=0.0)
    quality: QualityReport | None = None

    def forget(self) -> None:
        """Publish the status again at the next chance: a new connection may have missed it."""
        self._said = None

    def status(
        self, state: payloads.DeviceState, release: str, queue: int, active: int, reason: str
    ) -> wire.Status:
        """Return the status of the device, without its readings."""
        return wire.Status(
            state,
            release,
            queue,
            active,
            self.tok_s,
            self.ttft_ms,
            reason=reason,
            quality=self.quality,
        )

    def note(self, state: payloads.DeviceState, now: float) -> None:
        """Note since when the device is in this state; `busy` goes on with `ready`."""
        if (state := "ready" if state == "busy" else state) != self._state:
            self._state, self._since = state, now

    def say(
        self, status: wire.Status, readings: Readings, now: float, epoch: float
    ) -> list[Publish]:
        """Publish the status when it changed or is old; new readings alone are no change.

        Args:
            epoch: Unix seconds minus the seconds of `now`.
        """
        state = status.state
        last, age = self._said, now - self._said_at
        if last is not None:
            urgent = state != last.state and (state in URGENT or last.state in URGENT)
            changed = status != last and (urgent or age >= STATUS_MIN_SECONDS)
            if not changed and age < STATUS_MAX_SECONDS:
                return []
        self._said, self._said_at = status, now
        status = msgspec.structs.replace(
            status,
            temp_c=readings.temp_c,
            mem_free_mb=readings.mem_free_mb,
            mem_total_mb=readings.mem_total_mb,
            since=max(int(epoch + self._since), 0),
        )
        return [Publish(status_message(self.device, status))]


class HomeEntry:
    """The retained message by which Home Assistant finds the device, where it is to be shown.

    An empty one takes back what was shown before, until the broker says that it has it. A device
    that was never shown publishes nothing: its account need not have the right. Some brokers end
    the connection of who has it not, so after `MOST_LOST` such ends the message is left out.

    Args:
        config: says whether to show it.
        bundle: that it serves.
        agent: the agent's version.
        shown: whether it may be shown from before.
    """

    def __init__(self, config: AgentConfig, bundle: BundleConfig, agent: str, shown: bool) -> None:
        on, name = config.home_assistant, config.device
        told = discovery(name, bundle.name, bundle.version, agent) if on else b""
        self._message = wire.Outbound(topics.discovery_topic(object_id(name)), told, retain=True)
        self._due = on or shown
        self._lost = 0

    @property
    def due(self) -> list[Publish]:
        """What a new connection has to be told."""
        return [Publish(self._message)] if self._due else []

    def answered(self, sent: Publish, code: int | None) -> list[Effect]:
        """Note the broker's answer; nothing is left to take back once it has the empty message."""
        if sent.message != self._message:
            return []
        if code is None:
            self._lost += 1
            self._due = self._due and self._lost < MOST_LOST
            return [] if self._due else [Warn(f"{sent.message.topic} {LEFT_OUT}")]
        self._lost = 0
        if code >= FAILURE or self._message.payload:
            return []
        self._due = False
        return [ForgetShown()]


def context_served(bundle: BundleConfig, model: Ready | None) -> int:
    """Return the tokens of prompt and answer: the bundle's, or fewer where memory is short."""
    return model.context_length if model and model.context_length else bundle.context_length


def answer_cap(config: AgentConfig, bundle: BundleConfig, model: Ready | None) -> int:
    """Return how many tokens an answer may have.

    The lowest of the bundle's cap, the device's cap and the context that the device serves.
    """
    cap = min(bundle.max_answer_tokens, context_served(bundle, model))
    return min(config.max_answer_tokens or cap, cap)


def metrics_message(device: str, families: Sequence[Family]) -> wire.Outbound:
    """Return the message with all metrics. QoS 0: the next one repeats what a lost one had."""
    return wire.Outbound(topics.metrics_topic(device), as_json(families), qos=0)


def card_message(
    config: AgentConfig, bundle: BundleConfig, release: str, agent: str, model: Ready | None
) -> wire.Outbound:
    """Return the retained card; `model` is the worker's `Ready`, None before the first one."""
    images = None if model is None else model.images
    card = wire.Card(
        device=config.device,
        release=release,
        model=bundle.name,
        version=bundle.version,
        context_length=context_served(bundle, model),
        max_answer_tokens=answer_cap(config, bundle, model),
        queue_limit=config.queue_limit,
        agent=agent,
        pools=tuple(config.pools),
        slots=model.slots if model else 1,
        threads=model.threads if model else 0,
        spinning=model.spinning if model else False,
        max_beams=model.max_beams if model else 1,
        requests_per_minute=config.requests_per_minute,
        max_messages=config.max_messages,
        max_prompt_tokens=config.max_prompt_tokens,
        canary_samples=config.canary_samples,
        capabilities=(*capabilities.ALWAYS, *(model.capabilities if model else ())),
        template_options=tuple(model.template_options) if model else (),
        images=msgspec.UNSET if images is None else _card_images(config, images),
    )
    return wire.Outbound(topics.card_topic(config.device), msgspec.json.encode(card), retain=True)


def _card_images(config: AgentConfig, taken: payloads.ImagesTaken) -> wire.CardImages:
    most = wire.max_body_bytes(True, config.images_per_prompt)
    return wire.CardImages(
        **msgspec.structs.asdict(taken),
        max_body_bytes=most,
        bytes=pictures.send_bytes(most - wire.MAX_BODY_BYTES, taken.per_prompt),
    )

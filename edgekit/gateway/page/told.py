"""What the page is told: devices as they announce themselves, and the project's own facts. Pure.

Everything that a device says is data of a stranger: texts are cut to a length, and what has another
type than a card's or a status' makes the message unreadable.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edgekit.core.protocol import topics
from edgekit.core.reading import UNREADABLE

MOST_CHARS = 200  # of one text
MOST_NAMES = 32  # pools or capabilities


class CardTold(msgspec.Struct, frozen=True):
    """Of a device's card: what the page shows; `release` is a digest."""

    model: str = ""
    version: str = ""
    release: str = ""
    agent: str = ""
    pools: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    threads: int = 0
    context_length: int = 0
    max_answer_tokens: int = 0
    queue_limit: int = 0


class StatusTold(msgspec.Struct, frozen=True):
    """Of a device's status: what the page shows; None is what it does not say."""

    state: str = ""
    reason: str = ""
    queue: int = 0
    active: int = 0
    tok_s: float = 0.0
    ttft_ms: float = 0.0
    temp_c: float | None = None
    mem_free_mb: float | None = None
    mem_total_mb: float | None = None
    since: float = 0.0  # in this state, by the device's own clock; 0: it does not say


class CountsTold(msgspec.Struct, frozen=True):
    """Of a device's metrics, since its agent started."""

    prompts: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    rejected: int = 0
    worker_restarts: int = 0


class RolloutSummary(msgspec.Struct, frozen=True):
    """How a rollout stands, without the people and the devices in it.

    Attributes:
        release: name and version of its bundle, or its digest.
        phase, wave_phase: as `edgekit status` says.
        wave, waves: the present one, counted from 1, and how many there are.
        started, changed: Unix seconds.
        over: whether nothing is at work and nothing begins by itself.
        held: whether a process runs it.
        counts: devices by state.
    """

    number: int
    release: str
    phase: str
    wave: int
    waves: int
    wave_phase: str
    started: float
    changed: float
    over: bool
    held: bool
    counts: dict[str, int]


class ProjectTold(msgspec.Struct, frozen=True):
    """What the gateway's project knows: its groups, and its newest rollouts, the newest first."""

    groups: dict[str, list[str]] = {}
    rollouts: list[RolloutSummary] = []


class _Sample(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}
    value: float = 0
    count: int = 0
    sum: float = 0


class _Metrics(msgspec.Struct, frozen=True):
    gen_ai_server_request_duration_seconds: list[_Sample] = []
    gen_ai_client_token_usage: list[_Sample] = []
    edgekit_rejected_total: list[_Sample] = []
    edgekit_worker_restarts_total: float = 0


Told = CardTold | StatusTold | CountsTold
_S = TypeVar("_S", bound=msgspec.Struct)


def read(topic: str, payload: bytes) -> tuple[str, Told] | None:
    """The device of a card, status or metrics message, and what it says.

    An empty message takes back what was said: the value is then an empty one. None: the message is
    another one, or not readable.
    """
    device = topics.device_of(topic)
    if not device:
        return None
    try:
        if topic == topics.card_topic(device):
            return device, _short(_decoded(payload, CardTold))
        if topic == topics.status_topic(device):
            return device, _short(_decoded(payload, StatusTold))
        if topic == topics.metrics_topic(device):
            return device, _counts(_decoded(payload, _Metrics))
    except (*UNREADABLE, OverflowError):
        pass
    return None


def _decoded(payload: bytes, kind: type[_S]) -> _S:
    return msgspec.json.decode(payload or b"{}", type=kind)


def _short(said: _S) -> _S:
    """The same with texts of a bounded length."""
    cut: dict[str, Any] = {}
    for name in said.__struct_fields__:
        value = getattr(said, name)
        if isinstance(value, str) and len(value) > MOST_CHARS:
            cut[name] = value[:MOST_CHARS]
        elif isinstance(value, tuple):
            cut[name] = tuple(each[:MOST_CHARS] for each in value[:MOST_NAMES])
    return msgspec.structs.replace(said, **cut) if cut else said


def _counts(said: _Metrics) -> CountsTold:
    ended = said.gen_ai_server_request_duration_seconds
    tokens = {
        kind: sum(s.sum for s in said.gen_ai_client_token_usage if kind in s.labels.values())
        for kind in ("input", "output")
    }
    return CountsTold(
        prompts=sum(each.count for each in ended),
        failed=sum(each.count for each in ended if each.labels.get("error_type")),
        tokens_in=int(tokens["input"]),
        tokens_out=int(tokens["output"]),
        rejected=int(sum(each.value for each in said.edgekit_rejected_total)),
        worker_restarts=int(said.edgekit_worker_restarts_total),
    )

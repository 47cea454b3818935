"""The metrics of an agent's work. Pure.

`gen_ai_*` are those of the OpenTelemetry semantic conventions for generative AI, with their
attributes and bucket boundaries. Their names follow Prometheus: underscores for dots, the unit at
the end. No metric contains a prompt, a text or a requester's name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from edgekit.agent.serve.session.events import Readings
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.protocol.exposition import Buckets, Family

CANCELLED = "cancelled"
MB = 1 << 20

# "SHOULD be specified with ExplicitBucketBoundaries of", gen-ai-metrics.md
DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4**n for n in range(14))


@dataclass(slots=True)
class Histogram:
    """Counts values by their upper bound, and sums them."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)  # the last one is for values above all bounds
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def now(self) -> Buckets:
        """Return the histogram as it is now."""
        bounds = (*map(str, self.bounds), "+Inf")
        return Buckets(tuple(zip(bounds, accumulate(self.counts), strict=True)), self.total)


@dataclass(frozen=True, slots=True)
class Now:
    """The gauges: values of this moment, which are not counted."""

    queue: int
    running: int
    ignored: int
    readings: Readings


@dataclass(slots=True)
class Metrics:
    """Counters and histograms since the agent started.

    Args:
        model: the bundle's name, for `gen_ai_request_model`.
        version: of the bundle.
        release: its digest.
        agent: the agent's version.
    """

    model: str
    version: str
    release: str
    agent: str
    duration: dict[str, Histogram] = field(default_factory=dict)  # by error, "" for none
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    per_token: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN))
    input: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    output: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    rejected: Counter[str] = field(default_factory=Counter)  # by code
    cached_tokens: int = 0
    worker_restarts: int = 0
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)  # messages by rule and fate

    def ended(self, seconds: float, error: str) -> None:
        """Count a prompt that has its outcome, `seconds` after it came."""
        self.duration.setdefault(error, Histogram(DURATION)).observe(seconds)

    def used(self, usage: Usage) -> None:
        """Count the tokens that the worker computed, also for an answer that was not finished."""
        self.input.observe(usage.prompt_tokens)
        self.output.observe(usage.completion_tokens)
        self.cached_tokens += usage.prompt_tokens_details.cached_tokens

    def answered(self, seconds: float, timings: Timings, tokens: int) -> None:
        """Count a whole answer; `seconds` and `timings.queue_ms` begin when the prompt came."""
        if not tokens:
            return
        first = (timings.queue_ms + timings.first_token_ms) / 1e3
        self.first_token.observe(first)
        # a beam search has no first token before its last
        one_by_one = timings.first_token_ms < timings.prompt_ms + timings.predicted_ms
        if tokens > 1 and one_by_one:
            self.per_token.observe(max(0.0, seconds - first) / (tokens - 1))

    def families(self, now: Now) -> tuple[Family, ...]:
        """Return every metric, in a fixed order."""
        return (*self._histograms(), *self._numbers(now))

    def _histograms(self) -> tuple[Family, ...]:
        chat = {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": "edgekit",
            "gen_ai_request_model": self.model,
        }
        durations = tuple(
            (chat | ({"error_type": error} if error else {}), histogram.now())
            for error, histogram in sorted(self.duration.items())
        )
        tokens = (("input", self.input), ("output", self.output))
        return (
            Family(
                "gen_ai_server_request_duration_seconds",
                "histogram",
                "From a prompt's arrival to its outcome.",
                durations,
            ),
            Family(
                "gen_ai_server_time_to_first_token_seconds",
                "histogram",
                "From a prompt's arrival to the first token of its answer.",
                ((chat, self.first_token.now()),),
            ),
            Family(
                "gen_ai_server_time_per_output_token_seconds",
                "histogram",
                "Per token after the first one.",
                ((chat, self.per_token.now()),),
            ),
            Family(
                "gen_ai_client_token_usage",
                "histogram",
                "Tokens of a prompt and of its answer.",
                tuple((chat | {"gen_ai_token_type": kind}, found.now()) for kind, found in tokens),
            ),
        )

    def _numbers(self, now: Now) -> tuple[Family, ...]:
        build = {
            "agent": self.agent,
            "release": self.release,
            "model": self.model,
            "version": self.version,
        }
        return (
            _one("edgekit_queue_depth", "gauge", "Prompts that wait.", now.queue),
            _one("edgekit_running", "gauge", "Prompts that run.", now.running),
            Family(
                "edgekit_rejected_total",
                "counter",
                "Prompts that were not taken, by the error's code.",
                tuple(({"code": code}, n) for code, n in sorted(self.rejected.items())),
            ),
            _one("edgekit_ignored_total", "counter", "Messages without an answer.", now.ignored),
            _one(
                "edgekit_prefix_cached_tokens_total",
                "counter",
                "Tokens of prompts that were computed before.",
                self.cached_tokens,
            ),
            _one(
                "edgekit_worker_restarts_total",
                "counter",
                "Deaths of the model's process.",
                self.worker_restarts,
            ),
            Family(
                "edgekit_rule_messages_total",
                "counter",
                "Messages that rules heard, and prompts of theirs that were not taken, by fate.",
                tuple(
                    ({"rule": rule, "fate": fate}, n)
                    for (rule, fate), n in sorted(self.rules.items())
                ),
            ),
            _one("edgekit_soc_temp_celsius", "gauge", "The hottest zone.", now.readings.temp_c),
            _one(
                "edgekit_mem_free_bytes",
                "gauge",
                "Memory that is available.",
                None if now.readings.mem_free_mb is None else now.readings.mem_free_mb * MB,
            ),
            Family("edgekit_build_info", "gauge", "What runs here.", ((build, 1),)),
        )


def _one(name: str, kind: Literal["counter", "gauge"], text: str, value: float | None) -> Family:
    return Family(name, kind, text, () if value is None else (({}, value),))

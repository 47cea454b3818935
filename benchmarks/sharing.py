"""`agent.*` of prompts that share the model: turns of a chat, late ones, several at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.agent import SETTLE_SECONDS, STORY, fresh
from benchmarks.figure import figure
from benchmarks.rig import Rig
from edgekit.client import Delta, Final
from edgekit.errors import EdgekitError

CHAT_TOKENS = 1000  # of the first turn
LATE_TOKENS = 300  # of a late prompt
TOKENS_PER_WORD = 1.0  # of WORDS below, roughly
STORY_TOKENS = 400  # that run while a late prompt comes
STARTED_DELTAS = 3  # of the running answer, before the late prompt is sent
STREAMS, STREAM_TOKENS = 4, 96
WAIT_SECONDS = 600.0  # for a thread's answer
WORDS = "the keeper saw a small boat near the dark rocks and lit the lamp again"

_numbers = itertools.count(1)


@dataclass
class Asked:
    """One prompt over MQTT as it is answered; times are `perf_counter` seconds."""

    began: float
    deltas: list[float] = field(default_factory=list)
    ended: float = 0.0
    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def first_seconds(self) -> float:
        """From the call to the first delta."""
        return self.deltas[0] - self.began


def text_of(tokens: int) -> str:
    """About so many tokens of text that no prompt had before, so that no prefix of it is kept."""
    words = itertools.islice(itertools.cycle(WORDS.split()), int(tokens / TOKENS_PER_WORD))
    return f"Report {next(_numbers)} of {time.monotonic_ns()}: {' '.join(words)}."


def ask(
    rig: Rig, messages: list[dict[str, str]], max_tokens: int, asked: Asked, **fields: Any
) -> Asked:
    """Prompt the device greedily, noting when what came; `fields` are further ones of the body."""
    body = {"messages": messages, "max_completion_tokens": max_tokens, "temperature": 0, **fields}
    for reply in rig.requester.ask(rig.device, body):
        if isinstance(reply, Delta):
            asked.deltas.append(time.perf_counter())
        if isinstance(reply, Final):
            asked.ended = time.perf_counter()
            asked.text, asked.usage = reply.text, reply.completion["usage"]
    if not asked.deltas:
        raise EdgekitError("the answer came without a delta")
    return asked


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def now() -> Asked:
    """A prompt that is sent now."""
    return Asked(time.perf_counter())


@figure(
    "agent.second_turn_ratio",
    what="First token of turn two of a 1,000-token chat, over turn one's",
    unit="ratio",
    against="turn one of the same chat, of which nothing is kept",
)
def second_turn_ratio(rig: Rig) -> list[float]:
    """Seconds to the first delta of the second turn over those of the first, seen over MQTT."""
    rig.device  # noqa: B018  made here, not in the first sample

    def one_round() -> float:
        time.sleep(SETTLE_SECONDS)
        turns = user(text_of(CHAT_TOKENS))
        cold = ask(rig, turns, 24, now())
        tokens = cold.usage["prompt_tokens"]
        if not 0.8 * CHAT_TOKENS < tokens < 1.3 * CHAT_TOKENS:
            raise EdgekitError(f"the first turn has {tokens} tokens")
        time.sleep(SETTLE_SECONDS)
        turns += [{"role": "assistant", "content": cold.text}, *user("And what did the boat do?")]
        warm = ask(rig, turns, 24, now())
        return warm.first_seconds / cold.first_seconds

    one_round()
    return [one_round() for _ in range(rig.rounds)]


@dataclass(frozen=True)
class Late:
    """One late prompt: first token when idle and when another runs; the other's longest gap."""

    idle_seconds: float
    late_seconds: float
    pause_seconds: float


def late_prompts(rig: Rig) -> Iterator[Late]:
    """A prompt when the device is idle, and one like it while another answer runs."""
    rig.device  # noqa: B018  made here, not in the first sample
    endless = {str(token): -100 for token in rig.end_tokens}
    for number in range(rig.rounds + 1):
        time.sleep(SETTLE_SECONDS)
        idle = ask(rig, user(text_of(LATE_TOKENS)), 4, now())
        time.sleep(SETTLE_SECONDS)
        running = now()
        story = user(f"{STORY} It begins in the year {1700 + number}.")
        thread = threading.Thread(
            target=ask, args=(rig, story, STORY_TOKENS, running), kwargs={"logit_bias": endless}
        )
        thread.start()
        deadline = time.monotonic() + WAIT_SECONDS
        while len(running.deltas) < STARTED_DELTAS and time.monotonic() < deadline:
            time.sleep(0.005)
        late = ask(rig, user(text_of(LATE_TOKENS)), 4, now())
        thread.join(WAIT_SECONDS)
        if running.ended < late.deltas[0]:
            raise EdgekitError("the running answer ended before the late one began")
        seen = [t for t in running.deltas if t >= late.began - 0.2]
        if number:  # the first one warms
            yield Late(
                idle.first_seconds,
                late.first_seconds,
                max(b - a for a, b in itertools.pairwise(seen)),
            )


@figure(
    "agent.late_first_token_ratio",
    what="First token of a 300-token prompt while another answer runs, over an idle device's",
    unit="ratio",
    against="a prompt of the same length on the idle device, in turns",
)
def late_first_token_ratio(rig: Rig) -> list[float]:
    """Seconds to a late prompt's first delta over those of one that comes alone."""
    return [late.late_seconds / late.idle_seconds for late in late_prompts(rig)]


@figure(
    "agent.late_pause_ms",
    what="Longest gap between a running answer's deltas while a 300-token prompt comes in",
    unit="ms",
    against="the coalescing of deltas, which is part of it",
)
def late_pause_ms(rig: Rig) -> list[float]:
    """Milliseconds of the longest gap that the requester of the running answer sees."""
    return [late.pause_seconds * 1e3 for late in late_prompts(rig)]


@figure(
    "agent.four_streams_ratio",
    what="Tokens/s of four prompts at once, all together, over one prompt's",
    unit="ratio",
    against="one prompt of the same kind, in turns; a device with `batching`",
)
def four_streams_ratio(rig: Rig) -> list[float]:
    """Tokens per second from the calls to the last final, over those of one prompt."""
    rig.reconfigure("batching = true\n")

    def streams(count: int) -> float:
        time.sleep(SETTLE_SECONDS)
        asked = [now() for _ in range(count)]
        threads = [
            threading.Thread(target=ask, args=(rig, fresh(STORY), STREAM_TOKENS, a)) for a in asked
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        tokens = sum(a.usage["completion_tokens"] for a in asked)
        return float(tokens) / (max(a.ended for a in asked) - asked[0].began)

    try:
        streams(STREAMS)
        return [streams(STREAMS) / streams(1) for _ in range(rig.rounds)]
    finally:
        rig.reconfigure("")

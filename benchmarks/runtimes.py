"""`agent.*` of the runtime below edgekit: its threads, and llama.cpp on the same weights."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

from benchmarks.agent import SETTLE_SECONDS, STORY, ask, fresh
from benchmarks.bare import Bare
from benchmarks.figure import figure
from benchmarks.llamacpp import LlamaCpp, interpreter
from benchmarks.models import SMOLLM2, find_pruned
from benchmarks.rig import CONTEXT_TOKENS, Rig
from benchmarks.sharing import CHAT_TOKENS, text_of, user
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.data import cache_root
from edgekit.errors import EdgekitError

DECODE_TOKENS = 96
THREAD_TOKENS = 32  # of a round; a large model takes seconds for them


@figure(
    "agent.threads_ratio",
    what="Greedy decoding with the threads the device found, over the runtime's default",
    unit="ratio",
    against="onnxruntime-genai with no session options, in turns",
)
def threads_ratio(rig: Rig) -> list[float]:
    """Tokens per second of the bare runtime with the device's setting over its default's.

    The device stops before: two models of the size that matters do not fit beside it.
    """
    options = rig.options
    rig.stop_device()
    tuned, default = rig.another_bare(options), rig.another_bare({})

    def rate(bare: Any) -> float:
        time.sleep(SETTLE_SECONDS)
        answer = bare.answer(fresh(STORY), THREAD_TOKENS)
        return float(answer.tokens - 1) / float(answer.rest_seconds)

    rate(tuned), rate(default)
    return [rate(tuned) / rate(default) for _ in range(rig.rounds)]


@figure(
    "agent.pruned_head_ratio",
    what="First token of a 1,000-token prompt with `-x prune_lm_head=true`, over the whole head's",
    unit="ratio",
    against="the same weights with the whole head, in turns; bare onnxruntime-genai",
)
def pruned_head_ratio(rig: Rig) -> list[float]:
    """Seconds to the first token where the logits of the last position alone are computed."""
    if rig.model.name != SMOLLM2:
        raise EdgekitError("only smollm2 is built both ways", next_step=f"--model {SMOLLM2}")
    options = rig.options
    rig.stop_device()
    pruned = rig.closing(Bare(find_pruned(), CONTEXT_TOKENS, options))
    whole = rig.another_bare(options)

    def one_round(number: int) -> float:
        messages = user(text_of(CHAT_TOKENS))
        seconds = {}
        for bare in (pruned, whole) if number % 2 else (whole, pruned):
            time.sleep(SETTLE_SECONDS)
            seconds[bare] = bare.answer(messages, 1).first_seconds
        return seconds[pruned] / seconds[whole]

    one_round(0)
    return [one_round(number) for number in range(rig.rounds)]


@figure(
    "agent.llamacpp_ratio",
    what="Greedy decoding through MQTT, tokens/s, over llama.cpp's on the same weights",
    unit="ratio",
    against="llama.cpp built for this CPU, Q4_1, its best thread count, in turns",
)
def llamacpp_ratio(rig: Rig) -> list[float]:
    """Tokens per second through MQTT over llama.cpp's own loop, for a 96-token answer.

    llama.cpp decodes in its C++ loop's order, a batch of one token and an arg-max, without its
    Python wrapper. It gets the thread count it is fastest with, tried here; so does the device.
    """
    if rig.model.name != SMOLLM2:
        raise EdgekitError("only smollm2 is had as a GGUF file", next_step=f"--model {SMOLLM2}")
    theirs = fastest_llamacpp(rig)
    rig.device  # noqa: B018  made here, not in the first sample

    def device() -> float:
        time.sleep(SETTLE_SECONDS)
        answer = ask(rig, fresh(STORY), DECODE_TOKENS)
        return (answer.tokens - 1) / answer.rest_seconds

    device()
    return [device() / decoding(theirs, STORY, DECODE_TOKENS) for _ in range(rig.rounds)]


def fastest_llamacpp(rig: Rig) -> LlamaCpp:
    """llama.cpp with the thread count that decodes fastest here; the others end at once."""
    python, gguf = interpreter(cache_root()), smollm2_gguf()
    tried: dict[int, float] = {}
    for threads in range(1, len(os.sched_getaffinity(0)) + 1):
        one = LlamaCpp(python, gguf, CONTEXT_TOKENS, threads)
        tried[threads] = median(decoding(one, STORY, THREAD_TOKENS) for _ in range(3))
        one.close()
    best = max(tried, key=lambda threads: tried[threads])
    return rig.closing(LlamaCpp(python, gguf, CONTEXT_TOKENS, best))


def decoding(theirs: LlamaCpp, prompt: str, tokens: int, schema: Any = None) -> float:
    """Tokens per second behind the first of one greedy answer of llama.cpp."""
    time.sleep(SETTLE_SECONDS)
    answer = theirs.decode(prompt, tokens, schema)
    return float(answer["tokens"] - 1) / float(answer["rest_seconds"])

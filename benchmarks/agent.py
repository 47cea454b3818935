"""`agent.*`: what edgekit adds to the runtime, seen by a requester over MQTT."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.bare import Messages
from benchmarks.figure import figure
from benchmarks.rig import DEVICE, Rig
from edgekit.agent.serve.worker.sampling import Sampler
from edgekit.client import Delta, Final, Requester
from edgekit.core.chat.sampling import Sampling
from edgekit.errors import EdgekitError

STORY = "Tell me a long story about a lighthouse keeper and a storm."
STORY_TOKENS = 200
DECODE_PAIRS = 9  # of answers; the median of their ratios makes one round

QUESTION = (
    "Describe in a few sentences how a lighthouse keeper spends a quiet winter day, "
    "and what the keeper sees at sea."
)
FIRST_PAIRS = 60  # the prefills differ by 5 to 10 ms from one to the next
FIRST_TOKENS = 4

POSITIONS = 64  # of an answer, whose logits are sampled from
TOP_KS = (0, 50)
SETTLE_SECONDS = 0.05  # all processes come to rest

BARE = (
    "the bare onnxruntime-genai loop in the same process, in turns; each run another process; "
    "Mosquitto on this machine"
)


_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """One greedy answer; seconds are the requester's, or the bare runtime's own.

    Attributes:
        text: whole.
        tokens: generated, the end-of-turn token included.
        prompt_tokens: after the chat template.
        first_seconds: from the call to the first delta; bare, from the messages as text to the
            first token's id: template, encoding, prefill, choice.
        rest_seconds: from the first delta to the final; bare, from the first token's id to the
            last one's.
    """

    text: str
    tokens: int
    prompt_tokens: int
    first_seconds: float
    rest_seconds: float


def fresh(prompt: str) -> Messages:
    """A conversation that begins as none before it did, so that no prefix of it is kept."""
    system = {"role": "system", "content": f"Number {next(_numbers)}."}
    return [system, {"role": "user", "content": prompt}]


def ask(rig: Rig, messages: Messages, max_tokens: int) -> Answer:
    """Prompt the device, greedily."""
    first: float | None = None
    began = time.perf_counter()
    for reply in rig.requester.ask(DEVICE, _body(messages, max_tokens)):
        if isinstance(reply, Delta) and first is None:
            first = time.perf_counter()
        if isinstance(reply, Final):
            ended = time.perf_counter()
            final = reply
    if first is None:
        raise EdgekitError("the answer came without a delta")
    return _answer(final, first - began, ended - first)


def ask_bare(requester: Requester, messages: Messages, max_tokens: int) -> Answer:
    """Have the runtime's plain loop answer in the device's model process; its own seconds."""
    *_, final = requester.ask(DEVICE, _body(messages, max_tokens))
    assert isinstance(final, Final)
    timings = final.completion["timings"]
    return _answer(final, timings["first_token_ms"] / 1e3, timings["predicted_ms"] / 1e3)


def _body(messages: Messages, max_tokens: int) -> dict[str, Any]:
    return {"messages": messages, "max_completion_tokens": max_tokens, "temperature": 0}


def _answer(final: Final, first_seconds: float, rest_seconds: float) -> Answer:
    usage = final.completion["usage"]
    return Answer(
        final.text, usage["completion_tokens"], usage["prompt_tokens"], first_seconds, rest_seconds
    )


def pairs(
    rig: Rig, bare: Requester, prompt: str, tokens: int, count: int
) -> Iterator[tuple[Answer, Answer]]:
    """The same prompts through MQTT and bare, in turns; who begins alternates.

    Raises:
        EdgekitError: the answers are not the same.
    """
    for number in range(-1, count):
        messages = fresh(prompt)
        if number % 2:
            plain = ask_bare(bare, messages, tokens)
        time.sleep(SETTLE_SECONDS)
        ours = ask(rig, messages, tokens)
        time.sleep(SETTLE_SECONDS)
        if not number % 2:
            plain = ask_bare(bare, messages, tokens)
        said = (ours.text, ours.tokens, ours.prompt_tokens)
        if said != (plain.text, plain.tokens, plain.prompt_tokens):
            raise EdgekitError(
                "the device and the bare runtime answered differently",
                f"{ours.tokens} tokens, {ours.text!r}; {plain.tokens} tokens, {plain.text!r}",
            )
        if number >= 0:  # the first pair warms both
            yield ours, plain


@figure(
    "agent.decode_ratio",
    what="Greedy decoding through MQTT, tokens/s at the requester, over the bare runtime's",
    unit="ratio",
    against=BARE,
)
def decode_ratio(rig: Rig) -> list[float]:
    """Tokens per second through MQTT over those of the bare runtime, for a 200-token answer.

    The requester's clock runs from the first delta, which carries the first token alone, to the
    final, in which the last one is; the bare one's from the first token's id to the last one's.
    Both count all tokens but the first. The final's way through the broker counts against
    edgekit; the first delta's counts for it, and shows in `agent.first_token_added_ms`.
    """

    def one_round(bare: Requester) -> float:
        measured = list(pairs(rig, bare, STORY, STORY_TOKENS, DECODE_PAIRS))
        if measured[0][0].tokens < STORY_TOKENS // 2:
            raise EdgekitError(f"the model ends its story after {measured[0][0].tokens} tokens")
        return median(b.rest_seconds / a.rest_seconds for a, b in measured)  # of equal texts

    return [one_round(bare) for bare in rig.compared()]


@figure(
    "agent.first_token_added_ms",
    what="First delta at the requester, less the bare runtime's time to its first token",
    unit="ms",
    against=BARE,
)
def first_token_added_ms(rig: Rig) -> list[float]:
    """Milliseconds from the call to the first delta, less the bare runtime's to its first token.

    The prompt has about 40 tokens, of which none is kept from earlier ones. The bare time is chat
    template, encoding, prefill and the choice of the first token.
    """

    def one_round(bare: Requester) -> float:
        measured = pairs(rig, bare, QUESTION, FIRST_TOKENS, FIRST_PAIRS)
        return median(a.first_seconds - b.first_seconds for a, b in measured) * 1e3

    return [one_round(bare) for bare in rig.compared()]


@figure(
    "agent.sampling_us",
    what="Choosing one token from the model's logits at temperature 0.8, top-p 0.95",
    unit="us",
    against="the worse of top_k 0 and 50, on the logits of 64 positions",
)
def sampling_us(rig: Rig) -> list[float]:
    """Microseconds of one `Sampler.choose`, the mean over the positions of a real answer.

    The logits are those of the model's own greedy story, float32, one row per position.
    """
    path = rig.folder / "logits.npy"
    rig.bare.logits(fresh(STORY), POSITIONS, path)
    rows = list(np.load(path))

    def one_round(top_k: int) -> float:
        sampler = Sampler(Sampling(temperature=0.8, top_p=0.95, top_k=top_k, seed=1), [])
        began = time.perf_counter()
        for row in rows:
            sampler.choose(row)
        return (time.perf_counter() - began) / len(rows) * 1e6

    for top_k in TOP_KS:
        one_round(top_k)
    samples: dict[int, list[float]] = {top_k: [] for top_k in TOP_KS}
    for _ in range(rig.rounds):
        for top_k, times in samples.items():
            times.append(one_round(top_k))
    return max(samples.values(), key=median)

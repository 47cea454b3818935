"""`gateway.*`: what HTTP adds to MQTT, seen by a client of the gateway."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import httpx2

from benchmarks.agent import (
    FIRST_TOKENS,
    QUESTION,
    SETTLE_SECONDS,
    STORY,
    STORY_TOKENS,
    Answer,
    ask,
    fresh,
)
from benchmarks.bare import Messages
from benchmarks.figure import figure
from benchmarks.rig import DEVICE, Rig
from edgekit.errors import EdgekitError
from edgekit.gateway import keys

MQTT = "the same prompts through MQTT, in turns; gateway, device and Mosquitto on this machine"
FIRST_PAIRS = 30
DECODE_PAIRS = 5
READY_SECONDS = 60.0


@figure(
    "gateway.added_ms",
    what="First token through the gateway's HTTP, less through MQTT",
    unit="ms",
    against=MQTT,
)
def added_ms(rig: Rig) -> list[float]:
    """Milliseconds; the prompt has about 40 tokens, of which none is kept from earlier ones."""
    with _client(rig) as client:

        def one_round() -> float:
            measured = list(_pairs(rig, client, QUESTION, FIRST_TOKENS, FIRST_PAIRS))
            return median(a.first_seconds - b.first_seconds for a, b in measured) * 1e3

        return [one_round() for _ in range(rig.rounds)]


@figure(
    "gateway.decode_ratio",
    what="Greedy decoding through the gateway's HTTP, tokens/s, over MQTT's",
    unit="ratio",
    against=MQTT,
)
def decode_ratio(rig: Rig) -> list[float]:
    """Tokens per second from the first piece of text to the end, for a 200-token answer."""
    with _client(rig) as client:

        def one_round() -> float:
            measured = list(_pairs(rig, client, STORY, STORY_TOKENS, DECODE_PAIRS))
            return median(b.rest_seconds / a.rest_seconds for a, b in measured)

        return [one_round() for _ in range(rig.rounds)]


def _pairs(
    rig: Rig, client: httpx2.Client, prompt: str, tokens: int, count: int
) -> Iterator[tuple[Answer, Answer]]:
    """The same kind of prompt through HTTP and MQTT, in turns; who begins alternates.

    Each prompt begins anew, so the second of a pair has no prefix of the first.
    """
    for number in range(-1, count):
        if number % 2:
            plain = ask(rig, fresh(prompt), tokens)
        time.sleep(SETTLE_SECONDS)
        ours = _ask(client, fresh(prompt), tokens)
        time.sleep(SETTLE_SECONDS)
        if not number % 2:
            plain = ask(rig, fresh(prompt), tokens)
        if ours.tokens != plain.tokens:
            continue  # another number in the system message ended the answer elsewhere
        if number >= 0:  # the first pair warms both
            yield ours, plain


def _ask(client: httpx2.Client, messages: Messages, max_tokens: int) -> Answer:
    body = {
        "model": f"device:{DEVICE}",
        "messages": messages,
        "max_completion_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, text = 0.0, ""
    usage: dict[str, int] = {}
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else ""
            if piece and not first:
                first = time.perf_counter()
            text += piece or ""
    ended = time.perf_counter()
    if not first or not usage:
        raise EdgekitError("the gateway did not answer", text)
    return Answer(
        text, usage["completion_tokens"], usage["prompt_tokens"], first - began, ended - first
    )


@contextmanager
def _client(rig: Rig) -> Iterator[httpx2.Client]:
    """A gateway in a process of its own, and a connection to it."""
    assert rig.device
    file = rig.folder / "gateway-keys.json"
    key = keys.add(file, "bench", datetime.date(2026, 1, 1))
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "gateway", "--json", "--port", "0", "--keys", str(file)],
        cwd=rig.folder / "project",
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "}" not in said:
            line = process.stdout.readline()
            if not line:
                raise EdgekitError("the gateway did not start", said)
            said += line
        headers = {"Authorization": f"Bearer {key}"}
        url = json.loads(said)["url"]
        with httpx2.Client(base_url=url, headers=headers, timeout=READY_SECONDS) as client:
            until = time.monotonic() + READY_SECONDS
            while f"device:{DEVICE}" not in client.get("/v1/models").text:
                if time.monotonic() > until:
                    raise EdgekitError("the gateway does not know the device")
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(READY_SECONDS)

"""LongRoPE's border on a real graph: Phi-3.5's structure in small, whose threshold is 64."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.agent.serve.pipe import Done, FromWorker, Pipe, Start, ToWorker
from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.decoder import (
    Decoder,
    Limits,
    Logits,
    RuntimeOptions,
    open_model,
)
from edgekit.agent.serve.worker.worker import Worker
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostToolchain
from edgekit.core.chat.sampling import Sampling
from edgekit.data import cache_root
from edgekit.tokens.chat import open_tokenizer
from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import NOTHING, Value
from tests.building import run_script, silent

THRESHOLD = 64
MAX_LENGTH = 160


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phi35") / "source"
    python = HostToolchain().ready(silent).python
    run_script(python, "models/make_phi35.py", source, "--tiny")
    out = cache_root() / "tests" / "phi35-tiny"
    request = BuildRequest(model=str(source), out=out, gate=None, recipe="plain")
    return build(request, silent).out


class OneSlot:
    """Slot 0 of a decoder, noting what is computed; slot 1 is left for the test."""

    vision = None

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.limits: Limits = msgspec.structs.replace(decoder.limits, slots=1)
        self.computed: list[tuple[int, Logits]] = []  # length of the slot and the logits there
        self.slices: list[int] = []
        self.held: list[int] = []  # the tokens of the slot

    def length(self, slot: int) -> int:
        return self._decoder.length(slot)

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        logits = self._decoder.extend(slot, tokens)
        self.slices.append(len(tokens))
        self.held += tokens
        self.computed.append((self.length(slot), logits.copy()))
        return logits

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        stepped = self._decoder.step(tokens)
        self.held.append(tokens[0])
        self.computed.append((self.length(0), stepped[0].copy()))
        return stepped

    def greedy(self, slot: int) -> int:
        self.held.append(self._decoder.greedy(slot))
        return self.held[-1]

    def truncate(self, slot: int, length: int) -> None:
        self._decoder.truncate(slot, length)
        del self.held[length:]


class Fixed:
    """A tokenizer whose chats are the numbers in their last message."""

    eos_token_ids: frozenset[int] = frozenset()

    def __init__(self, real: Tokenizer) -> None:
        self.stream = real.stream
        self.encode_around = real.encode_around
        self.bytes_of, self.end_of, self.encode = real.bytes_of, real.end_of, real.encode
        self.template_texts, self.template_options = real.template_texts, real.template_options

    def encode_chat(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[int]:
        _, content = turns[-1]
        return [int(word) for word in str(content).split() if word.isdigit()]


def run(decoder: OneSlot, tokenizer: Tokenizer, prompt: list[int], sampling: Sampling) -> Done:
    """Answer 20 tokens in a worker on this decoder."""
    ours, theirs = socket.socketpair()
    worker = Worker(Pipe(theirs, ToWorker), decoder, tokenizer, time.monotonic)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    pipe: Pipe[FromWorker] = Pipe(ours, FromWorker)
    text = " ".join(map(str, prompt))
    pipe.send(Start("j", "r", [("user", text)], sampling, [], 20, time.monotonic() + 60))
    ours.settimeout(60)
    while not isinstance(message := pipe.receive(), Done):
        assert message is not None
    ours.close()
    thread.join(10)
    return message


def tokens(count: int) -> list[int]:
    return [int(n) for n in np.random.default_rng(count).integers(3, 500, count)]


def test_the_threshold_is_read_from_the_graph_unless_no_slot_gets_there(model: Path) -> None:
    assert (
        open_model(model, MAX_LENGTH, RuntimeOptions(1), slots=1)[0].limits.rope_threshold
        == THRESHOLD
    )
    assert open_model(model, THRESHOLD, RuntimeOptions(1), slots=1)[0].limits.rope_threshold is None


@pytest.mark.parametrize("batching", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5, seed=2)])
@pytest.mark.parametrize("length", [50, 63, 64, 65, 100])
def test_what_is_above_the_threshold_is_computed_with_the_long_factors_to_the_bit(
    model: Path, length: int, sampling: Sampling, batching: bool
) -> None:
    real, _ = open_model(model, MAX_LENGTH, RuntimeOptions(1), 2, batching)
    decoder = OneSlot(real)
    done = run(decoder, Fixed(open_tokenizer(model)), tokens(length), sampling)
    assert done.usage.completion_tokens == 20
    assert sum(size > THRESHOLD for size in decoder.slices) == 1  # computed again once, if at all
    held = decoder.held
    crossed = max(THRESHOLD + 1, length)
    computed = dict(decoder.computed)
    for at in (length, crossed):
        real.truncate(1, 0)
        assert (computed[at] == real.extend(1, held[:at])).all(), at
    # what the runtime has below the threshold is of no use above it
    real.truncate(1, 0)
    real.extend(1, held[:THRESHOLD])
    assert (computed[crossed] != real.extend(1, held[THRESHOLD:crossed])).any()

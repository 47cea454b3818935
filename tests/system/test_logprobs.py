"""Log-probabilities of a real model: transformers' on the same logits, and through a device."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.agent.serve.pipe import Done, FromWorker, Pipe, Start, ToWorker
from edgekit.agent.serve.worker.decoder import Decoder, Logits, RuntimeOptions, open_model
from edgekit.agent.serve.worker.worker import Worker
from edgekit.builder.tools.host import HostToolchain
from edgekit.client import Delta, Final, Requester
from edgekit.core.chat.sampling import Sampling
from edgekit.tokens.chat import open_tokenizer
from tests.building import run_script, silent
from tests.conftest import Project

pytestmark = pytest.mark.timeout(600)

QUESTION = "Write one sentence about the Grüße from München and a fox."
TOP = 4


class Noted:
    """A decoder that notes the logits after each slice and step, and the tokens of the steps."""

    vision = None

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.limits = decoder.limits
        self.length, self.greedy = decoder.length, decoder.greedy
        self.truncate = decoder.truncate
        self.said: list[Logits] = []
        self.stepped: list[int] = []

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        logits = self._decoder.extend(slot, tokens)
        self.said = [logits.copy()]  # the last slice's are those before the first token
        return logits

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        stepped = self._decoder.step(tokens)
        self.stepped += tokens.values()
        self.said += [each.copy() for each in stepped.values()]
        return stepped


@pytest.mark.parametrize(
    ("sampling", "batching"),
    [(Sampling(), False), (Sampling(temperature=1.0, top_p=0.9, seed=3), True)],
)
def test_they_are_transformers_log_softmax_of_the_same_logits(
    smollm2: Path, tmp_path: Path, sampling: Sampling, batching: bool
) -> None:
    real, _ = open_model(smollm2, 512, RuntimeOptions(2), 1, batching)
    decoder, tokenizer = Noted(real), open_tokenizer(smollm2)
    ours, theirs = socket.socketpair()
    worker = Worker(Pipe(theirs, ToWorker), decoder, tokenizer, time.monotonic)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    pipe: Pipe[FromWorker] = Pipe(ours, FromWorker)
    turns, until = [("user", QUESTION)], time.monotonic() + 60
    pipe.send(Start("j", "r", turns, sampling, [], 24, until, top_logprobs=TOP))
    ours.settimeout(60)
    while not isinstance(done := pipe.receive(), Done):
        assert done is not None
    ours.close()
    thread.join(10)
    theirs.close()

    np.save(tmp_path / "logits.npy", np.stack(decoder.said))
    python = HostToolchain().ready(silent).python
    script = "harness/inside/log_softmax.py"
    run_script(python, script, tmp_path / "logits.npy", tmp_path / "wanted.npy")
    wanted = np.load(tmp_path / "wanted.npy")
    entries = done.logprobs
    assert entries is not None
    assert len(entries) >= 15
    for entry, token, row in zip(entries, decoder.stepped, wanted, strict=False):
        assert bytes(entry.bytes or []) == tokenizer.bytes_of(token)
        assert abs(entry.logprob - row[token]) < 2e-5
        best = np.argsort(-row, kind="stable")[:TOP]
        named = [bytes(each.bytes or []) for each in entry.top_logprobs]
        assert named == [tokenizer.bytes_of(int(each)) for each in best]
        for each, other in zip(entry.top_logprobs, best, strict=True):
            assert abs(each.logprob - row[other]) < 2e-5
    if sampling.temperature:
        assert any(e.logprob < e.top_logprobs[0].logprob for e in entries), "all were greedy"


@pytest.fixture
def requester(device: Project) -> Iterator[Requester]:
    with Requester(device.broker, "logprobs") as requester:
        yield requester


def test_through_a_device_they_spell_the_answer(requester: Requester) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 24,
        "logprobs": True,
        "top_logprobs": 2,
    }
    plain = {name: body[name] for name in ("messages", "max_tokens")}
    replies = list(requester.ask("demo", body))
    final = replies[-1]
    assert isinstance(final, Final)
    content = final.completion["choices"][0]["logprobs"]["content"]
    spelled = b"".join(bytes(each["bytes"]) for each in content)
    assert spelled.decode() == final.text
    assert all(each["top_logprobs"][0]["logprob"] >= each["logprob"] for each in content)
    assert sum(isinstance(each, Delta) for each in replies) == final.completion["deltas"]
    without = list(requester.ask("demo", plain))[-1]
    assert isinstance(without, Final)
    assert without.text == final.text  # asking changes no answer
    assert "logprobs" not in without.completion["choices"][0]

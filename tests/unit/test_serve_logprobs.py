"""Log-probabilities: their values, which tokens have them, and how much of them there may be."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.agent.serve.pipe import (
    Done,
    FromWorker,
    Generated,
    Pipe,
    Refused,
    Start,
    ToWorker,
)
from edgekit.agent.serve.session.events import Publish
from edgekit.agent.serve.session.events import ToWorker as Told
from edgekit.agent.serve.worker.answer.answer import Answer
from edgekit.agent.serve.worker.answer.logprobs import LogprobReader
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.chat.logprobs import MAX_BYTES, NEVER, TokenLogprob, most_tokens
from edgekit.core.chat.sampling import Sampling
from edgekit.core.protocol.wire import ProtocolError
from tests.fakes.decoder import EOS, VOCABULARY, FakeDecoder, FakeTokenizer
from tests.harness.session import BODY, Agent

TOKENIZER = FakeTokenizer()
LONG = {"max_answer_tokens": 100_000, "context_length": 100_000}
TIMINGS = Timings(0.0, 0.0, 0.0, 0.0, 1.0)


def log_softmax(logits: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    """By definition, in float64."""
    values = logits.astype(np.float64)
    shifted = values - values.max()
    return [float(each) for each in shifted - np.log(np.exp(shifted).sum())]


def entry(text: str) -> TokenLogprob:
    return TokenLogprob(text, -1.0, list(text.encode()), [])


def spelled(entries: Sequence[TokenLogprob]) -> bytes:
    return b"".join(bytes(each.bytes or []) for each in entries)


# --- values ---------------------------------------------------------------------------------------
def test_a_log_probability_is_the_log_softmax_of_the_logits() -> None:
    rng = np.random.default_rng(5)
    for scale in (0.1, 3.0, 40.0):
        logits = rng.normal(0, scale, VOCABULARY).astype(np.float32)
        before = logits.copy()
        wanted = log_softmax(logits)
        chosen = int(rng.integers(EOS))
        found = LogprobReader(3, TOKENIZER.bytes_of).read(logits, chosen)
        assert found.logprob == pytest.approx(wanted[chosen], abs=2e-5)
        best = sorted(range(VOCABULARY), key=lambda token: -wanted[token])[:3]
        assert [bytes(each.bytes or []) for each in found.top_logprobs] == [
            TOKENIZER.bytes_of(token) for token in best
        ]
        for each, token in zip(found.top_logprobs, best, strict=True):
            assert each.logprob == pytest.approx(wanted[token], abs=2e-5)
        assert (logits == before).all()


def test_what_cannot_come_has_a_number_that_json_knows() -> None:
    logits = np.full(VOCABULARY, -np.inf, dtype=np.float32)
    logits[7] = 1.0
    reader = LogprobReader(2, TOKENIZER.bytes_of)
    found = reader.read(logits, 7)
    assert (found.logprob, found.top_logprobs[1].logprob) == (0.0, NEVER)
    assert reader.certain(7).logprob == 0.0
    assert [each.logprob for each in reader.certain(7).top_logprobs] == [0.0]
    assert LogprobReader(0, TOKENIZER.bytes_of).certain(7).top_logprobs == []


def test_half_a_character_is_written_as_openai_writes_it() -> None:
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    found = LogprobReader(0, TOKENIZER.bytes_of).read(logits, 0xF0)
    assert (found.token, found.bytes) == ("\\xf0", [0xF0])


def test_an_id_without_text_has_no_bytes() -> None:
    found = LogprobReader(0, lambda _: b"").read(np.zeros(VOCABULARY, dtype=np.float32), 5)
    assert (found.token, found.bytes) == ("", None)


# --- which tokens ---------------------------------------------------------------------------------
def answered(text: str | bytes, stops: Sequence[str] = ()) -> tuple[list[str], list[TokenLogprob]]:
    """The deltas of an answer, and the entries in them; both are also in the whole answer."""
    texts: list[str] = []
    entries: list[TokenLogprob] = []

    def send(piece: AnswerPiece) -> None:
        texts.append(piece.text)
        entries.extend(piece.logprobs)
        whole = spelled(entries).decode("utf-8", "ignore")
        assert whole.startswith("".join(texts))  # no text comes before its entries

    answer = Answer(send, stops, TOKENIZER, logprobs=True)
    raw = text.encode() if isinstance(text, str) else text
    for now, token in enumerate(raw):
        it = TokenLogprob(chr(token), -1.0, [token], [])
        if answer.add(token, float(now), it):
            break
    assert answer.finish(99.0) == AnswerPiece("".join(texts), "", [], entries)
    return texts, entries


@pytest.mark.parametrize("text", ["Paris.", "Grüße 🦊!", "", "a"])
def test_the_tokens_bytes_are_the_answers_text(text: str) -> None:
    _, entries = answered(text)
    assert spelled(entries) == text.encode()


def test_tokens_of_a_stop_string_are_not_among_them() -> None:
    texts, entries = answered("The END of it", ["END"])
    assert ("".join(texts), spelled(entries)) == ("The ", b"The ")


def test_a_text_that_was_held_back_comes_with_its_tokens() -> None:
    texts, entries = answered("The EN of it", ["END"])
    assert ("".join(texts), spelled(entries)) == ("The EN of it", b"The EN of it")


def test_an_answer_that_ends_inside_a_character_names_its_tokens() -> None:
    texts, entries = answered("a🦊".encode()[:3])
    assert "".join(texts) == "a"
    assert spelled(entries) == "a🦊".encode()[:3]


def test_nobody_asked() -> None:
    answer = Answer(lambda *_: None, [], TOKENIZER)
    answer.add(65, 0.0)
    assert answer.finish(1.0) == AnswerPiece("A", "", [], [])


# --- the worker -----------------------------------------------------------------------------------
def run(
    answer: str, top: int | None, batched: bool = False
) -> tuple[list[FromWorker], FakeDecoder]:
    """What a worker says to a prompt."""
    ours, theirs = socket.socketpair()
    decoder = FakeDecoder(4096, [*TOKENIZER.encode(answer), EOS], batched=batched)
    worker = Worker(Pipe(theirs, ToWorker), decoder, TOKENIZER, lambda: 1.0)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    pipe: Pipe[FromWorker] = Pipe(ours, FromWorker)
    turns = [("user", "Hi")]
    pipe.send(Start("a/1", "a", turns, Sampling(), [], 2000, 1e9, top_logprobs=top))
    ours.settimeout(20)
    said: list[FromWorker] = []
    while not said or not isinstance(said[-1], Done | Refused):
        message = pipe.receive()
        assert message is not None
        said.append(message)
    ours.close()
    thread.join(10)
    theirs.close()
    return said, decoder


@pytest.mark.parametrize("batched", [False, True])
def test_every_delta_and_the_answer_have_them(batched: bool) -> None:
    said, decoder = run("Grüße aus München", 2, batched)
    done = said[-1]
    assert isinstance(done, Done)
    assert done.logprobs is not None
    assert spelled(done.logprobs) == done.text.encode() == "Grüße aus München".encode()
    deltas = [each for each in said if isinstance(each, Generated)]
    assert [each for delta in deltas for each in delta.logprobs] == done.logprobs
    assert {len(each.top_logprobs) for each in done.logprobs} == {2}
    assert all(each.logprob == each.top_logprobs[0].logprob for each in done.logprobs)  # greedy
    assert not any(method == "greedy" for method, _ in decoder.calls)


def test_nobody_pays_for_what_nobody_asked_for() -> None:
    said, decoder = run("Paris.", None)
    done = said[-1]
    assert isinstance(done, Done)
    assert done.logprobs is None
    assert not any(each.logprobs for each in said if isinstance(each, Generated))
    assert any(method == "greedy" for method, _ in decoder.calls)
    assert not any(method == "step" for method, _ in decoder.calls)


def test_unusual_tokens_end_an_answer_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound before the start counts typical tokens; these have 200 bytes each."""
    monkeypatch.setattr(FakeTokenizer, "bytes_of", lambda *_: b"x" * 200)
    said, _ = run("x" * 1900, 1)
    done = said[-1]
    assert isinstance(done, Done)
    assert done.finish_reason == "length"
    size = len(msgspec.json.encode(done.logprobs))
    assert MAX_BYTES <= size < MAX_BYTES + 4096


# --- the session ----------------------------------------------------------------------------------
def payloads(effects: Sequence[object], kind: str) -> list[dict[str, Any]]:
    return [
        json.loads(each.message.payload)
        for each in effects
        if isinstance(each, Publish) and dict(each.message.user).get("ek-kind") == kind
    ]


def test_delta_and_final_have_openais_shape() -> None:
    agent = Agent().ready()
    agent.prompt(body=BODY | {"logprobs": True, "top_logprobs": 1})
    it = msgspec.structs.replace(entry("Hi"), top_logprobs=[])
    (delta,) = payloads(agent.handle(Generated("alice/p1", "Hi", logprobs=[it])), "delta")
    wanted = {"token": "Hi", "logprob": -1.0, "bytes": [72, 105], "top_logprobs": []}
    assert delta["choices"][0]["logprobs"] == {"content": [wanted], "refusal": None}
    done = Done("alice/p1", "Hi", "stop", Usage(1, 1, 2), TIMINGS, logprobs=[it])
    (final,) = payloads(agent.handle(done), "final")
    assert final["choices"][0]["logprobs"] == {"content": [wanted], "refusal": None}


def starts(effects: Sequence[object]) -> Start:
    (start,) = [e.message for e in effects if isinstance(e, Told) and isinstance(e.message, Start)]
    return start


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_the_worker_hears_what_is_asked_for(fields: dict[str, Any], top: int | None) -> None:
    assert starts(Agent().ready().prompt(body=BODY | fields)).top_logprobs == top


def test_more_than_the_bound_is_refused_before_the_start() -> None:
    agent = Agent(bundled=LONG).ready()
    most = most_tokens(20)
    body = BODY | {"logprobs": True, "top_logprobs": 20}
    (error,) = payloads(agent.prompt(body=body | {"max_tokens": most + 1}), "error")
    assert (error["error"]["code"], error["error"]["param"]) == ("invalid_request", "top_logprobs")
    assert f"at most {most} tokens" in error["error"]["message"]
    assert starts(agent.prompt("p2", body=body | {"max_tokens": most})).answer_limit == most


def test_without_a_limit_of_its_own_an_answer_ends_at_the_bound() -> None:
    agent = Agent(bundled=LONG).ready()
    body = BODY | {"logprobs": True, "top_logprobs": 20}
    assert starts(agent.prompt(body=body)).answer_limit == most_tokens(20)


def test_a_devices_own_cap_counts_before_the_bound() -> None:
    body = BODY | {"logprobs": True, "top_logprobs": 20, "max_tokens": 10**6}
    assert starts(Agent().ready().prompt(body=body)).answer_limit == 100


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"top_logprobs": 1}, "invalid_request", "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 1}, "invalid_request", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_request", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "invalid_request", "top_logprobs"),
        ({"logprobs": 5}, "invalid_request", "logprobs"),
        ({"logprobs": True, "num_beams": 2}, "unsupported_parameter", "logprobs"),
    ],
)
def test_what_says_nothing_sensible_is_refused(
    fields: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_body(json.dumps(BODY | fields).encode())
    assert (caught.value.code, caught.value.param) == (code, param)


# --- with a grammar -------------------------------------------------------------------------------
def test_a_token_of_a_grammar_is_one_of_those_that_it_allows() -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 3, VOCABULARY).astype(np.float32)
    allowed = np.array([3, 9, 77, 130], dtype=np.intp)
    wanted = log_softmax(logits[allowed])
    mask = np.isin(np.arange(logits.size), allowed)
    found = LogprobReader(6, TOKENIZER.bytes_of).read(logits, 77, mask)
    assert found.logprob == pytest.approx(wanted[2], abs=2e-5)
    ranked = sorted(zip(wanted, allowed, strict=True), reverse=True)  # fewer than were asked for
    assert [bytes(each.bytes or []) for each in found.top_logprobs] == [
        bytes([token]) for _, token in ranked
    ]
    only = LogprobReader(6, TOKENIZER.bytes_of).read(logits, 9, np.arange(logits.size) == 9)
    assert (only.logprob, [each.logprob for each in only.top_logprobs]) == (0.0, [0.0])

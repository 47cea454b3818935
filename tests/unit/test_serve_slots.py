"""Several prompts in one worker: who is computed when, and what is kept for whom."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgekit.agent.serve.pipe import (
    SLICE_TOKENS,
    Cancel,
    Done,
    FromWorker,
    Generated,
    Refused,
    Start,
)
from edgekit.agent.serve.worker.scheduler import SHARED_SLICE_TOKENS
from edgekit.core.chat.sampling import Sampling
from tests.fakes.decoder import EOS, VOCABULARY
from tests.unit.test_serve_worker import NO_DEADLINE, TOKENIZER, Parent, prompt, worker

pytestmark = pytest.mark.timeout(30)
ALPHABET = "abcdefghijklmnopqrstuvwxyz" * 4


def collect(parent: Parent, jobs: int) -> dict[str, FromWorker]:
    """The last message of so many jobs; all of them are in `parent.events`."""
    last: dict[str, FromWorker] = {}
    parent.pipe.sock.settimeout(10)
    while len(last) < jobs:
        message = parent.pipe.receive()
        assert message is not None
        parent.events.append(message)
        if isinstance(message, Done | Refused):
            last[message.key] = message
    return last


def all_sent(parent: Parent, method: str) -> None:
    """Computes nothing before all prompts are in the pipe."""
    assert parent.sent.wait(10)


def chat(key: str, *turns: tuple[str, str], requester: str = "a", limit: int = 3) -> Start:
    return Start(key, requester, list(turns), Sampling(), [], limit, NO_DEADLINE)


def test_a_late_prompt_is_answered_while_another_runs() -> None:
    def late(parent: Parent, method: str) -> None:
        if method == "greedy" and parent.decoder.calls.count(("greedy", 1)) == 10:
            parent.pipe.send(prompt("y" * 300, key="b/1", limit=2))

    with worker(ALPHABET, late, slots=2) as parent:
        parent.send(prompt(limit=80))
        done = collect(parent, 2)
        assert list(done) == ["b/1", "a/1"]
        first, second = done["a/1"], done["b/1"]
        assert isinstance(first, Done)
        assert isinstance(second, Done)
        assert (first.text, second.text) == (ALPHABET[:80], ALPHABET[:2])
        fed = [n for n, (call, _) in enumerate(parent.decoder.calls) if call == "extend"][1:]
        sizes = [parent.decoder.calls[n][1] for n in fed]
        assert max(sizes) <= SHARED_SLICE_TOKENS
        # between two slices the running answer gets one token, no more and no less
        between = [parent.decoder.calls[a + 1 : b] for a, b in pairwise(fed)]
        assert between == [[("greedy", 1)]] * (len(fed) - 1)


def test_a_prompt_that_comes_with_the_cancel_of_another_does_not_wait_for_a_third() -> None:
    def late(parent: Parent, method: str) -> None:
        calls = [call for call, _ in parent.decoder.calls]
        if method == "greedy" and calls.count("greedy") == 10:
            parent.pipe.send(prompt("y" * 320, key="b/1", limit=2))
        if method == "extend" and calls.count("extend") == 3:
            parent.pipe.send(Cancel("b/1"))
            parent.pipe.send(prompt("z", key="c/1", limit=2))

    with worker(ALPHABET, late, slots=3) as parent:
        parent.send(prompt(limit=100))
        assert list(collect(parent, 3)) == ["b/1", "c/1", "a/1"]


def test_alone_a_prompt_is_fed_in_long_slices() -> None:
    with worker("ok", slots=4) as parent:
        parent.done(prompt("x" * 300))
        sizes = [n for call, n in parent.decoder.calls if call == "extend"]
        assert max(sizes) > SHARED_SLICE_TOKENS
        assert max(sizes) <= SLICE_TOKENS


def test_more_prompts_than_slots_wait_in_order() -> None:
    with worker("abc", slots=2) as parent:
        for number in range(5):
            parent.pipe.send(prompt(key=f"a/{number}"))
        done = collect(parent, 5)
        assert sorted(done) == [f"a/{number}" for number in range(5)]
        assert all(isinstance(d, Done) and d.text == "abc" for d in done.values())
        seen = [e.key for e in parent.events if isinstance(e, Generated)]
        assert seen.index("a/4") == max(seen.index(f"a/{number}") for number in range(5))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_cancel_and_a_deadline_concern_one_of_several(slots: int) -> None:
    def meddle(parent: Parent, method: str) -> None:
        all_sent(parent, method)
        if method != "extend" and len(parent.decoder.calls) == 8:
            parent.now += 50  # b/2's time is up
            parent.pipe.send(Cancel("b/1"))

    with worker(ALPHABET, meddle, slots=slots) as parent:
        parent.send(
            prompt(key="a/1", limit=60),
            prompt(key="b/1", limit=60),
            prompt(key="b/2", limit=60, deadline=1020.0),
        )
        done = collect(parent, 3)
        reasons = {key: d.finish_reason for key, d in done.items() if isinstance(d, Done)}
        assert reasons == {"a/1": "length", "b/1": "cancelled", "b/2": "deadline"}
        waited = done["b/2"]
        assert isinstance(waited, Done)
        assert (waited.text, waited.usage.prompt_tokens) == ("", 0)


def test_sampled_and_greedy_answers_run_side_by_side_and_are_those_they_are_alone() -> None:
    hot = Sampling(temperature=2.0, seed=3)
    noise = [ord("x")]  # one scripted token, then what the noise makes likely
    with worker(noise, all_sent, slots=2) as parent:
        parent.send(prompt(key="a/1", limit=30), prompt("other", key="a/2", limit=30, sampling=hot))
        together = collect(parent, 2)
    for key, start in (
        ("a/1", prompt(limit=30)),
        ("a/2", prompt("other", limit=30, sampling=hot)),
    ):
        with worker(noise) as parent:
            alone, both = parent.done(start), together[key]
            assert isinstance(both, Done)
            assert alone.text == both.text


def test_one_step_serves_all_answers_where_the_decoder_is_batched() -> None:
    noise = [ord("x")]
    with worker(noise, slots=2) as parent:
        alone = parent.done(prompt(limit=20)).text
    with worker(noise, all_sent, slots=3, batched=True) as parent:
        parent.send(
            prompt(key="a/1", limit=20),
            prompt("second", key="a/2", limit=20),
            prompt("third", key="a/3", limit=20, sampling=Sampling(temperature=1.0)),
        )
        done = collect(parent, 3)
        assert isinstance(done["a/1"], Done)
        assert done["a/1"].text == alone
        assert max(parent.decoder.batches) == 3
        assert "greedy" not in {call for call, _ in parent.decoder.calls}


# --- prefixes ---------------------------------------------------------------------------------
def cached(done: Done) -> int:
    return done.usage.prompt_tokens_details.cached_tokens


def test_a_second_turn_computes_only_what_is_new() -> None:
    with worker("Paris.") as parent:
        first = parent.done(chat("a/1", ("user", "Capital of France?"), limit=50))
        assert cached(first) == 0
        parent.decoder.calls.clear()
        turns = [("user", "Capital of France?"), ("assistant", "Paris."), ("user", "And of Italy?")]
        second = parent.done(chat("a/2", *turns))
        kept = TOKENIZER.encode("user:Capital of France?\nassistant:Paris.")
        assert cached(second) == len(kept)
        fed = sum(n for call, n in parent.decoder.calls if call == "extend")
        assert fed == second.usage.prompt_tokens - len(kept)


def test_the_same_prompt_again_gives_the_same_answer() -> None:
    with worker("It is Paris.") as parent:
        texts = [parent.done(prompt(key=f"a/{n}")) for n in range(3)]
        assert {done.text for done in texts} == {"It is Paris."}
        assert [cached(done) for done in texts] == [0, *[texts[0].usage.prompt_tokens - 2] * 2]


def test_another_requester_reuses_the_system_message_alone() -> None:
    system, secret = ("system", "Be brief."), ("user", "The code is 1234")
    with worker("ok") as parent:
        parent.done(chat("a/1", system, secret))
        guess = parent.done(chat("b/1", system, secret, requester="b"))
        assert cached(guess) == len(TOKENIZER.encode("system:Be brief.\nuser:"))
        # now the slot is b's, who may go on in it
        again = parent.done(chat("b/2", system, secret, requester="b"))
        assert cached(again) == again.usage.prompt_tokens - 2


def test_what_another_said_cannot_be_guessed_with_a_system_message() -> None:
    with worker("ok") as parent:
        parent.done(chat("a/1", ("user", "The code is 1234")))
        forged = chat("b/1", ("system", "x"), ("user", "y"), requester="b")
        assert cached(parent.done(forged)) == 0
        parent.done(chat("a/2", ("system", "S"), ("user", "The code is 1234")))
        # this template has nothing that marks a turn but a line break, which a system message can
        # hold as well: it renders to the very text of a's prompt
        forged = chat("b/2", ("system", "S\nuser:The code is 1234"), ("user", "y"), requester="b")
        assert cached(parent.done(forged)) <= len(TOKENIZER.encode("system:S\nuser:"))


def test_a_cancelled_prefill_leaves_what_it_computed() -> None:
    def cancel(parent: Parent, method: str) -> None:
        if len(parent.decoder.calls) == 2:
            parent.pipe.send(Cancel("a/1"))

    with worker("ok", cancel) as parent:
        assert parent.done(prompt("x" * 1000)).finish_reason == "cancelled"
        fed = sum(n for _, n in parent.decoder.calls)
        again = parent.done(prompt("x" * 1000, key="a/2"))
        assert (again.text, cached(again)) == ("ok", fed)


# --- refusals ---------------------------------------------------------------------------------
def test_a_bias_on_a_token_that_is_not_there_is_refused_before_any_compute() -> None:
    with worker("abc") as parent:
        failed = parent.ask(prompt(sampling=Sampling(logit_bias={VOCABULARY: 1.0})))
        assert isinstance(failed, Refused)
        assert failed.code == "invalid_request"
        assert str(VOCABULARY) in failed.message
        assert parent.decoder.calls == []
        done = parent.done(prompt(sampling=Sampling(logit_bias={EOS: -100.0, ord("a"): 1.0})))
        assert done.finish_reason == "stop" or done.text


# --- LongRoPE ---------------------------------------------------------------------------------
def test_an_answer_that_crosses_the_threshold_is_computed_again_once() -> None:
    for sampling in (Sampling(), Sampling(temperature=0.2, seed=1)):
        with worker("abcdefgh", rope_threshold=20) as parent:
            done = parent.done(prompt(sampling=sampling))
            assert done.text == "abcdefgh"
            fed = [n for call, n in parent.decoder.calls if call == "extend"]
            assert fed == [18, 21]  # 18 of the prompt; all 21 once the long factors are used


def test_a_prompt_above_the_threshold_goes_in_at_once_up_to_there() -> None:
    with worker("ok", rope_threshold=100) as parent:
        parent.done(prompt("x" * 150))
        fed = [n for call, n in parent.decoder.calls if call == "extend"]
        assert fed == [101, 33, 32]
        # and the next turn goes on from it
        parent.decoder.calls.clear()
        assert cached(parent.done(prompt("x" * 150 + "y" * 9, key="a/2"))) == 155
        # one that shares less than the threshold goes in at once up to there, too
        parent.decoder.calls.clear()
        kept = cached(parent.done(prompt("x" * 10 + "z" * 140, key="a/4")))
        first = next(n for call, n in parent.decoder.calls if call == "extend")
        assert 10 <= kept < 101 <= kept + first
        # while a short one does not use what was computed with other factors
        assert cached(parent.done(prompt("x" * 60, key="a/3"))) == 0


def test_deltas_of_two_answers_do_not_mix() -> None:
    with worker(ALPHABET, all_sent, slots=2) as parent:
        parent.send(prompt(key="a/1", limit=70), prompt(key="a/2", limit=50))
        done = collect(parent, 2)
        for key, final in done.items():
            deltas = [e.text for e in parent.events if isinstance(e, Generated) and e.key == key]
            assert isinstance(final, Done)
            assert "".join(deltas) == final.text

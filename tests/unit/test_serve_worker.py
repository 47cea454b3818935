"""The worker on a socketpair: what it says for which tokens, and how soon it stops."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.agent.serve.pipe import (
    SLICE_TOKENS,
    Cancel,
    Done,
    EndedPrompt,
    FromWorker,
    Generated,
    Heartbeat,
    Pipe,
    Refused,
    Start,
    ToWorker,
    Walk,
    WalkBroken,
    WalkEnded,
)
from edgekit.agent.serve.worker.answer.answer import FLUSH_SECONDS, FLUSH_TOKENS
from edgekit.agent.serve.worker.grammar.grammars import Grammars
from edgekit.agent.serve.worker.processors import Logits, ProcessorFactory
from edgekit.agent.serve.worker.walking import walk_idle
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.sampling import Sampling
from edgekit.core.chat.tools.formats import Calling
from edgekit.core.quality import TOP
from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import NOTHING, Value
from tests.fakes.decoder import EOS, FakeBeams, FakeDecoder, FakeTokenizer

pytestmark = pytest.mark.timeout(30)

TOKENIZER = FakeTokenizer()
NO_DEADLINE = 1e9


@dataclass
class Parent:
    """The other end of the worker's pipe, and the clock."""

    pipe: Pipe[FromWorker]
    thread: threading.Thread
    decoder: FakeDecoder
    beams: FakeBeams
    now: float = 1000.0
    events: list[FromWorker] = field(default_factory=list)
    heartbeats: list[Heartbeat] = field(default_factory=list)
    sent: threading.Event = field(default_factory=threading.Event)

    def send(self, *starts: Start) -> None:
        """Send prompts; `sent` is set when all of them are under way."""
        for start in starts:
            self.pipe.send(start)
        self.sent.set()

    def ask(self, start: Start) -> FromWorker:
        """Send a prompt; the last message about it, the earlier ones are in `events`."""
        self.pipe.send(start)
        self.events = []
        self.pipe.sock.settimeout(10)
        while True:
            message = self.pipe.receive()
            assert message is not None
            if isinstance(message, Heartbeat):
                self.heartbeats.append(message)
            elif isinstance(message, Generated):
                self.events.append(message)
            else:
                return message

    def done(self, start: Start) -> Done:
        message = self.ask(start)
        assert isinstance(message, Done)
        assert message.text == "".join(self.deltas)
        assert message.usage.total_tokens == (
            message.usage.prompt_tokens + message.usage.completion_tokens
        )
        return message

    @property
    def deltas(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Generated)]


@contextmanager
def worker(
    answer: str | Sequence[int],
    before: Callable[[Parent, str], None] = lambda *_: None,
    max_length: int = 4096,
    tokenizer: FakeTokenizer = TOKENIZER,
    slots: int = 1,
    max_beams: int = 1,
    processors: ProcessorFactory | None = None,
    pause_seconds: float = 0.0,
    grammars: Grammars | None = None,
    **limits: Any,
) -> Iterator[Parent]:
    """A running worker whose model wants to say `answer`."""
    ours, theirs = socket.socketpair()
    tokens = [*TOKENIZER.encode(answer), EOS] if isinstance(answer, str) else list(answer)
    decoder = FakeDecoder(
        max_length, tokens, lambda method: before(parent, method), slots, **limits
    )
    beams = FakeBeams(tokens, lambda: before(parent, "beams"))
    run = Worker(
        Pipe(theirs, ToWorker),
        decoder,
        tokenizer,
        lambda: parent.now,
        processors=processors,
        beams=beams,
        max_beams=max_beams,
        pause_seconds=pause_seconds,
        grammars=grammars,
    ).run
    thread = threading.Thread(target=run, daemon=True)
    parent = Parent(Pipe(ours, FromWorker), thread, decoder, beams)
    parent.thread.start()
    yield parent
    ours.close()
    parent.thread.join(5)
    assert not parent.thread.is_alive(), "the worker outlives its parent"
    theirs.close()


def prompt(
    text: str = "Hi",
    *,
    key: str = "a/1",
    requester: str = "a",
    stops: Sequence[str] = (),
    limit: int = 1000,
    deadline: float = NO_DEADLINE,
    sampling: Sampling | None = None,
    prompt_limit: int = 0,
) -> Start:
    turns = [("user", text)]
    return Start(
        key, requester, turns, sampling or Sampling(), list(stops), limit, deadline, prompt_limit
    )


def test_an_answer_ends_at_the_end_of_turn_token_and_is_counted() -> None:
    with worker("Paris.") as parent:
        done = parent.done(prompt())
        assert (done.text, done.finish_reason) == ("Paris.", "stop")
        assert done.usage.prompt_tokens == len(TOKENIZER.encode_chat([("user", "Hi")]))
        assert done.usage.completion_tokens == 7  # the end-of-turn token is one
        assert parent.done(prompt(key="a/2")).text == "Paris."


def test_a_processor_of_ones_own_scores_every_token() -> None:
    (wanted,) = TOKENIZER.encode("x")
    seen: list[int] = []

    def only_x(answer: Sequence[int], logits: Logits) -> None:
        seen.append(len(answer))
        logits[:] = -np.inf
        logits[wanted] = 0.0

    with worker("Paris.", processors=lambda sampling, prompt: [only_x]) as parent:
        assert parent.done(prompt(limit=4)).text == "xxxx"
    assert seen == [0, 1, 2, 3]


def test_the_first_delta_comes_at_once_and_later_ones_by_number_of_tokens() -> None:
    with worker("x" * 100) as parent:
        parent.done(prompt())
        assert [len(delta) for delta in parent.deltas] == [
            1,
            FLUSH_TOKENS,
            FLUSH_TOKENS,
            FLUSH_TOKENS,
            3,
        ]


def test_the_model_rests_once_after_the_first_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[tuple[float, int]] = []
    with worker("x" * 100, pause_seconds=0.001) as parent:

        def sleep(seconds: float) -> None:
            rested.append((seconds, parent.decoder.length(0)))

        monkeypatch.setattr("edgekit.agent.serve.worker.worker.time.sleep", sleep)
        prompt_tokens = parent.done(prompt()).usage.prompt_tokens
    assert rested == [(0.001, prompt_tokens + 1)]


def test_deltas_are_coalesced_by_time() -> None:
    def slow(parent: Parent, method: str) -> None:
        parent.now += FLUSH_SECONDS / 4 + 0.0001

    with worker("x" * 21, slow) as parent:
        parent.done(prompt())
        assert [len(delta) for delta in parent.deltas] == [1, 4, 4, 4, 4, 4]


def test_a_stop_string_over_several_tokens_ends_the_answer_unseen() -> None:
    def slow(parent: Parent, method: str) -> None:
        parent.now += 1  # every token could be a delta

    with worker("one two STOP three", slow) as parent:
        done = parent.done(prompt(stops=["STOP", "never"]))
        assert (done.text, done.finish_reason) == ("one two ", "stop")
        assert done.usage.completion_tokens == len("one two STOP")
        assert parent.deltas[-1] == " "


def test_a_call_that_a_stop_string_cuts_is_not_said_to_be_whole() -> None:
    calling = Calling("hermes", ["f"])
    said = '<tool_call>{"name": "f", "arguments": {"a": "xyz"}}</tool_call>'
    for stops, reason in ((["y"], "stop"), (["arg"], "stop"), (["q"], "tool_calls")):
        with worker(said * 2) as parent:
            start = msgspec.structs.replace(prompt(limit=200), calling=calling)
            done = parent.done(msgspec.structs.replace(start, stops=stops))
        assert done.finish_reason == reason
        assert [call.function.name for call in done.calls] == ["f"] * (2 if stops == ["q"] else 1)


def test_text_held_for_a_stop_string_that_never_came_is_shown_at_the_end() -> None:
    with worker("one ST") as parent:
        assert parent.done(prompt(stops=["STOP"])).text == "one ST"
    with worker("one STxx") as parent:
        assert parent.done(prompt(stops=["STOP"], limit=6)).text == "one ST"


def test_characters_of_several_tokens_are_never_cut() -> None:
    def slow(parent: Parent, method: str) -> None:
        parent.now += 1

    with worker("né🎉 ok", slow) as parent:
        assert parent.done(prompt()).text == "né🎉 ok"
        assert parent.deltas == ["n", "é", "🎉", " ", "o", "k"]
        assert parent.done(prompt(limit=5)).text == "né"  # in the middle of the third one


def test_the_answer_limit_ends_with_length() -> None:
    with worker("abcdefgh") as parent:
        done = parent.done(prompt(limit=3))
        assert (done.text, done.finish_reason) == ("abc", "length")
        assert done.usage.completion_tokens == 3
        assert parent.decoder.calls.count(("greedy", 1)) == 3  # none is computed for nothing


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5, seed=1)])
def test_the_room_in_the_context_ends_with_length(sampling: Sampling) -> None:
    tokens = len(TOKENIZER.encode_chat([("user", "Hi")]))
    with worker("abcdefgh", max_length=tokens + 4) as parent:
        done = parent.done(prompt(sampling=sampling))
        assert (done.text, done.finish_reason) == ("abcd", "length")


def test_a_prompt_without_room_for_an_answer_is_refused_before_any_compute() -> None:
    tokens = len(TOKENIZER.encode_chat([("user", "Hi")]))
    with worker("abc", max_length=tokens) as parent:
        failed = parent.ask(prompt())
        assert isinstance(failed, Refused)
        assert (failed.key, failed.code) == ("a/1", "context_length_exceeded")
        assert str(tokens) in failed.message
        assert parent.decoder.calls == []


def test_a_prompt_above_the_device_s_limit_is_refused_by_its_name_before_any_compute() -> None:
    tokens = len(TOKENIZER.encode_chat([("user", "Hi")]))
    with worker("ok") as parent:
        failed = parent.ask(prompt(prompt_limit=tokens - 1))
        assert isinstance(failed, Refused)
        assert (failed.code, failed.param) == ("context_length_exceeded", "messages")
        assert "max_prompt_tokens" in failed.message
        assert parent.decoder.calls == []
        assert parent.done(prompt(prompt_limit=tokens)).text == "ok"


class PanicException(BaseException):
    """Named as Rust's panics are in Python."""


@pytest.mark.parametrize("kind", [ValueError, PanicException])
def test_a_chat_template_that_fails_is_the_prompts_error_and_the_worker_goes_on(
    kind: type[BaseException],
) -> None:
    class Picky(FakeTokenizer):
        def encode_chat(
            self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
        ) -> list[int]:
            if turns[0] == ("user", "bad"):
                raise kind("roles must alternate")
            return super().encode_chat(turns, tools, options)

    with worker("ok", tokenizer=Picky()) as parent:
        failed = parent.ask(prompt("bad"))
        assert isinstance(failed, Refused)
        assert failed.code == "invalid_request"
        assert "roles must alternate" in failed.message
        assert parent.done(prompt()).text == "ok"


def test_a_long_prompt_is_prefilled_in_balanced_slices() -> None:
    with worker("ok") as parent:
        done = parent.done(prompt("x" * (2 * SLICE_TOKENS + 1 - 16)))
        assert done.usage.prompt_tokens == 2 * SLICE_TOKENS + 1
        assert [n for call, n in parent.decoder.calls if call == "extend"] == [43, 43, 43]


def test_a_cancel_is_seen_within_one_slice_of_the_prefill() -> None:
    def cancel(parent: Parent, method: str) -> None:
        if len(parent.decoder.calls) == 2:
            parent.pipe.send(Cancel("a/1"))

    with worker("ok", cancel) as parent:
        done = parent.done(prompt("x" * 1000))
        assert (done.text, done.finish_reason) == ("", "cancelled")
        assert done.usage.completion_tokens == 0
        assert len(parent.decoder.calls) == 3  # the slice during which it came was the last


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5, seed=1)])
def test_a_cancel_is_seen_within_one_token_of_the_answer(sampling: Sampling) -> None:
    def cancel(parent: Parent, method: str) -> None:
        if method != "extend" and len(parent.decoder.calls) == 5:
            parent.pipe.send(Cancel("a/1"))

    with worker("abcdefghijklm", cancel) as parent:
        done = parent.done(prompt(sampling=sampling))
        assert done.finish_reason == "cancelled"
        assert len(parent.decoder.calls) == 6
        assert done.text == "abcdefghijklm"[: done.usage.completion_tokens]
        assert done.usage.completion_tokens in (5, 6)  # greedy appends first, sampling chooses


def test_a_cancel_of_another_prompt_or_too_late_changes_nothing() -> None:
    def cancel(parent: Parent, method: str) -> None:
        parent.pipe.send(Cancel("a/another"))

    with worker("abc", cancel) as parent:
        assert parent.done(prompt()).text == "abc"
        parent.pipe.send(Cancel("a/1"))
        assert parent.done(prompt(key="a/2")).text == "abc"


@pytest.mark.parametrize(("late", "text"), [("extend", ""), ("greedy", "a")])
def test_the_deadline_stops_a_prefill_and_an_answer(late: str, text: str) -> None:
    def wait(parent: Parent, method: str) -> None:
        if method == late:
            parent.now += 10

    with worker("abcdef", wait) as parent:
        done = parent.done(prompt("x" * 200, deadline=1005.0))
        assert (done.text, done.finish_reason) == (text, "deadline")
        assert parent.decoder.calls.count((late, 1)) <= 1
        assert parent.done(prompt(key="a/2")).finish_reason == "stop"


def test_a_worker_whose_parent_is_gone_ends_in_the_middle_of_an_answer() -> None:
    def leave(parent: Parent, method: str) -> None:
        if len(parent.decoder.calls) == 4:
            parent.pipe.sock.close()

    with worker("a" * 1000, leave) as parent:
        parent.pipe.send(prompt())
        parent.thread.join(5)
        assert not parent.thread.is_alive()
        assert len(parent.decoder.calls) <= 6


def test_sampling_uses_the_logits_and_a_plain_greedy_answer_does_not() -> None:
    with worker("abc") as parent:
        parent.done(prompt())
        assert "step" not in {call for call, _ in parent.decoder.calls}
    for sampling in (Sampling(repetition_penalty=1.1), Sampling(temperature=1.0, seed=3)):
        with worker("abc") as parent:
            assert parent.done(prompt(sampling=sampling)).text == "abc"
            assert "greedy" not in {call for call, _ in parent.decoder.calls}


def test_a_seed_repeats_the_answer() -> None:
    noise = [ord("x")]  # one scripted token, then what the noise makes likely
    sampling = Sampling(temperature=2.0, seed=11)
    with worker(noise) as parent:
        texts = [parent.done(prompt(sampling=sampling, limit=40)).text for _ in range(2)]
        assert texts[0] == texts[1]


def test_the_timings_are_those_of_the_clock() -> None:
    def tick(parent: Parent, method: str) -> None:
        parent.now += 0.5 if method == "extend" else 0.25

    with worker("abc", tick) as parent:
        timings = parent.done(prompt("x" * 100)).timings
        assert timings.prompt_ms == pytest.approx(1000)
        assert timings.first_token_ms == pytest.approx(1250)
        assert timings.predicted_ms == pytest.approx(1000)
        assert timings.predicted_per_second == pytest.approx(4)


# --- walks of the quality canary --------------------------------------------------------------
def heard(parent: Parent, kind: type[Any]) -> Any:
    """The next message of this kind."""
    parent.pipe.sock.settimeout(10)
    while not isinstance(message := parent.pipe.receive(), kind):
        assert message is not None
    return message


def walk(answer: str, wanted: list[list[int]] | None = None, limit: int = 8) -> Walk:
    tokens = [*TOKENIZER.encode("Hello?"), *TOKENIZER.encode(answer)]
    return Walk("walk-1", tokens, len(TOKENIZER.encode("Hello?")), wanted or [], limit)


def test_a_walk_says_what_the_model_holds_most_likely() -> None:
    with worker("Paris.") as parent:
        parent.pipe.send(walk("Paris."))
        ended = heard(parent, WalkEnded)
        assert ended.best == ended.answer[:6] == TOKENIZER.encode("Paris.")
        assert ended.answer[6:] == [EOS]
        assert [top.tokens[0] for top in ended.tops] == ended.best
        assert [top.tokens[0] for top in ended.answer_tops] == ended.answer
        for top in ended.tops:
            assert len(top.tokens) == TOP
            assert top.logprobs == sorted(top.logprobs, reverse=True)
            assert top.logprobs[0] <= 0
        assert parent.decoder.length(0) == 0


def test_a_walk_says_the_log_probabilities_that_are_wanted() -> None:
    with worker("Paris.") as parent:
        parent.pipe.send(walk("Paris."))
        first = heard(parent, WalkEnded)
        turned = [top.tokens[::-1] for top in first.tops]
        parent.pipe.send(walk("Paris.", turned))
        second = heard(parent, WalkEnded)
        assert [top.tokens for top in second.tops] == turned
        assert [top.logprobs[::-1] for top in second.tops] == [top.logprobs for top in first.tops]


def test_a_prompt_that_comes_in_a_walk_is_answered_first() -> None:
    begun, asked = threading.Event(), threading.Event()

    def slow(parent: Parent, method: str) -> None:
        if method == "step" and not asked.is_set():
            begun.set()
            asked.wait(10)

    with worker("Paris.", slow) as parent:
        parent.pipe.send(walk("Paris."))
        assert begun.wait(10)
        parent.pipe.send(prompt())
        asked.set()
        assert heard(parent, WalkBroken) == WalkBroken("walk-1")
        steps = [name for name, _ in parent.decoder.calls].count("step")
        assert steps <= 2  # the walk was broken off within a token
        assert heard(parent, Done).text == "Paris."
        # It does not go on after the answer: the parent asks again when it is idle again.
        parent.pipe.send(msgspec.structs.replace(walk("Paris."), key="walk-2"))
        assert heard(parent, WalkEnded).key == "walk-2"


def test_a_walk_that_comes_in_a_prompt_does_not_follow_it() -> None:
    begun, asked = threading.Event(), threading.Event()

    def slow(parent: Parent, method: str) -> None:
        begun.set()
        asked.wait(10)

    with worker("Paris.", slow) as parent:
        parent.pipe.send(prompt())
        assert begun.wait(10)
        parent.pipe.send(walk("Paris."))
        asked.set()
        assert heard(parent, WalkBroken) == WalkBroken("walk-1")
        assert heard(parent, Done).text == "Paris."
        assert parent.done(prompt(key="a/2")).usage.prompt_tokens_details.cached_tokens > 0


def test_a_walk_ends_when_it_is_cancelled() -> None:
    begun, asked = threading.Event(), threading.Event()

    def slow(parent: Parent, method: str) -> None:
        if method == "step":
            begun.set()
            asked.wait(10)

    with worker("Paris.", slow) as parent:
        parent.pipe.send(walk("Paris."))
        assert begun.wait(10)
        parent.pipe.send(Cancel("walk-1"))
        asked.set()
        assert heard(parent, WalkBroken) == WalkBroken("walk-1")
        assert [name for name, _ in parent.decoder.calls].count("step") <= 2


@contextmanager
def quiet_worker(decoder: FakeDecoder) -> Iterator[tuple[Worker, Pipe[FromWorker]]]:
    """A worker that runs only what is called of it, and the other end of its pipe."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Worker(Pipe(theirs, ToWorker), decoder, TOKENIZER, lambda: 1000.0)
        yield made, Pipe(ours, FromWorker)


def test_a_walk_is_cancelled_before_it_begins() -> None:
    with quiet_worker(FakeDecoder(4096)) as (made, parent):
        parent.send(walk("Paris."))
        parent.send(Cancel("walk-1"))
        made._listen()
        assert not made._walks
        assert parent.receive() == WalkBroken("walk-1")


def test_a_prompt_that_waits_in_the_pipe_keeps_its_prefix() -> None:
    decoder = FakeDecoder(4096)
    with quiet_worker(decoder) as (made, parent):
        made._idle[0].tokens = [1, 2, 3]
        parent.send(prompt())
        assert walk_idle(walk("Paris."), made._idle, *made._for_walks) == WalkBroken("walk-1")
        assert made._idle[0].tokens == [1, 2, 3]
        assert decoder.calls == []


def test_a_patient_walk_takes_no_slot_that_a_conversation_may_go_on_in() -> None:
    patient = msgspec.structs.replace(walk("Paris."), rest_seconds=100.0)
    with worker("Paris.") as parent:
        parent.done(prompt())
        parent.pipe.send(patient)
        assert heard(parent, WalkBroken) == WalkBroken("walk-1")
        assert parent.done(prompt(key="a/2")).usage.prompt_tokens_details.cached_tokens > 0
        parent.now += 100.0
        parent.pipe.send(patient)
        assert heard(parent, WalkEnded).answer
        parent.pipe.send(patient)  # the slot is empty now
        assert heard(parent, WalkEnded).answer


def test_a_walk_prefers_an_empty_slot() -> None:
    with worker("Paris.", slots=2) as parent:
        parent.done(prompt())
        parent.pipe.send(walk("Paris."))
        assert heard(parent, WalkEnded).answer
        assert parent.done(prompt(key="a/2")).usage.prompt_tokens_details.cached_tokens > 0


def test_a_walk_that_does_not_fit_says_nothing() -> None:
    with worker("Paris.", max_length=10) as parent:
        parent.pipe.send(walk("Paris."))
        assert heard(parent, WalkEnded) == WalkEnded("walk-1")


def test_a_walk_leaves_no_kept_prefix_behind() -> None:
    with worker("Paris.") as parent:
        parent.done(prompt())
        assert parent.done(prompt(key="a/2")).usage.prompt_tokens_details.cached_tokens > 0
        parent.pipe.send(walk("Paris."))
        heard(parent, WalkEnded)
        assert parent.done(prompt(key="a/3")).usage.prompt_tokens_details.cached_tokens == 0


def test_only_a_prompt_that_may_be_sampled_leaves_its_tokens() -> None:
    with worker("Paris.") as parent:
        parent.pipe.send(prompt())
        assert isinstance(heard(parent, Done), Done)
        parent.pipe.send(msgspec.structs.replace(prompt(key="a/2"), sample=True))
        ended = heard(parent, EndedPrompt)
        tokens = TOKENIZER.encode_chat([("user", "Hi")])
        assert ended == EndedPrompt([*tokens, *TOKENIZER.encode("Paris."), EOS], len(tokens))


def test_a_sampled_answer_has_its_last_token_too() -> None:
    with worker("Paris.") as parent:
        sampling = Sampling(temperature=0.01, seed=1)
        start = msgspec.structs.replace(prompt(sampling=sampling, limit=3), sample=True)
        parent.pipe.send(start)
        ended = heard(parent, EndedPrompt)
        assert len(ended.tokens) - ended.start == 3

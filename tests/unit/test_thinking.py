"""Thinking: how a request turns it on and off, where an answer has it, and who gets what of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from edgekit.agent.serve.pipe import Done, FromWorker, Generated, Pipe, Ready, Start, ToWorker
from edgekit.agent.serve.session.events import Connected, Publish
from edgekit.agent.serve.session.events import ToWorker as Told
from edgekit.agent.serve.worker.admission import admit
from edgekit.agent.serve.worker.answer.calls import reader_of
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece, whole
from edgekit.agent.serve.worker.answer.thinking import ThinkingReader
from edgekit.agent.serve.worker.decoder import Limits
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.capabilities import REASONING
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.sampling import Sampling
from edgekit.core.chat.thinking import FORMATS, Marks, marks_in, template_options
from edgekit.core.chat.tools.formats import OURS, Calling
from edgekit.core.protocol.wire import ProtocolError
from tests.fakes.decoder import EOS, VOCABULARY, FakeDecoder, FakeTokenizer
from tests.harness.session import BODY, Agent

TIMINGS = Timings(0.0, 0.0, 0.0, 0.0, 1.0)
THINK = Marks("<think>", "</think>")
GRANITE = FORMATS[0]
WORDS = FORMATS[3]


# --- where an answer has it -----------------------------------------------------------------------
ANSWERS: list[tuple[Marks, bool, str, str, str]] = [
    # marks, whether the prompt opened it, the model's text, its thinking, its answer
    (THINK, False, "<think>\nHm.\n\nOne?\n</think>\n\nYes.\n", "Hm.\n\nOne?", "Yes.\n"),
    (THINK, True, "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
    (THINK, True, "\n\n</think>\n\nYes.", "", "Yes."),
    (THINK, False, "<think>\n\n</think>\n\nYes.", "", "Yes."),
    (THINK, False, "\n<think>Hm.</think>Yes.", "Hm.", "Yes."),
    (THINK, False, "Yes, <think> is a tag.", "", "Yes, <think> is a tag."),
    (THINK, False, " <b>Yes.</b>", "", " <b>Yes.</b>"),
    (THINK, False, "<thi", "", "<thi"),
    (THINK, False, "<think>Hm. And th", "Hm. And th", ""),  # cut
    (THINK, False, "<think>Hm </thin", "Hm </thin", ""),
    (THINK, True, "a < b </b> </think>x </think>", "a < b </b>", "x </think>"),
    (THINK, False, "", "", ""),
    (THINK, True, " ", "", ""),
    (GRANITE, False, "<think>Hm.</think>\n<response>\nYes.\n</response>\nmore", "Hm.", "Yes."),
    (GRANITE, False, "<think>Hm.</think>\n<response>Yes.", "Hm.", "Yes."),
    (GRANITE, False, "<think>Hm.</think>\nYes <response>", "Hm.", "Yes <response>"),
    (GRANITE, False, "<think>Hm.</think><resp", "Hm.", "<resp"),
    (GRANITE, False, "<think>Hm.</think><response>Yes </respon", "Hm.", "Yes </respon"),
    (WORDS, False, "Here is my thought process: a.\n\nHere is my response: b", "a.", "b"),
    (WORDS, False, "Here is my cat.", "", "Here is my cat."),
]


def read(
    marks: Marks, opened: bool, pieces: Sequence[str]
) -> tuple[AnswerPiece, list[AnswerPiece], str]:
    reader = ThinkingReader(marks, opened)
    said, taken = [], ""
    for piece in pieces:
        if reader.ended:
            break
        taken += piece
        said.append(reader.push(piece))
    said.append(reader.flush())
    return whole(said), said, taken


@pytest.mark.parametrize(("marks", "opened", "text", "reasoning", "answer"), ANSWERS)
def test_thinking_and_answer_are_told_apart_however_the_text_comes(
    marks: Marks, opened: bool, text: str, reasoning: str, answer: str
) -> None:
    for size in (1, 2, 3, 5, 8, max(1, len(text))):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        found, said, _ = read(marks, opened, pieces)
        assert (found.reasoning, found.text) == (reasoning, answer), size
        texts = [bool(each.text) for each in said]
        first = texts.index(True) if True in texts else len(said)
        assert not any(each.reasoning for each in said[first + 1 :]), "thinking after the answer"


def test_thinking_is_shown_while_it_comes() -> None:
    reader = ThinkingReader(THINK, True)
    shown = [reader.push(word).reasoning for word in ("\nSo ", "it ", "is ", "</b ", "</think")]
    assert shown == ["So", " it", " is", " </b", ""]
    assert reader.push("> x") == AnswerPiece("x", "")


def test_a_mark_behind_the_answer_ends_it() -> None:
    text = "<think>Hm.</think><response>Yes.</response>never read"
    _, _, taken = read(GRANITE, False, list(text))
    assert taken == text[: -len("never read")]
    assert GRANITE.answer_end in ThinkingReader(GRANITE, False).shown
    assert ThinkingReader(THINK, False).shown == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("texts", "marks"),
    [
        (["{% if '</think>' in x %}", "a<think>\n"], THINK),
        (["<think></think> and <response></response>"], GRANITE),
        (["</think>"], None),
        (["[THINK]", "[/THINK]"], FORMATS[2]),
        (["Here is my thought process:", "Here is my response:"], WORDS),
        (["<|im_start|>"], None),
        ([], None),
    ],
)
def test_marks_come_from_the_chat_template(texts: list[str], marks: Marks | None) -> None:
    assert marks_in(texts) == marks


# --- how a request turns it on and off ------------------------------------------------------------
def options(known: Sequence[str], thinks: bool = True, **fields: Any) -> dict[str, Any]:
    return template_options(parse_body(json.dumps(BODY | fields).encode()), known, thinks)


SWITCH = ["date", "enable_thinking"]


@pytest.mark.parametrize(
    ("known", "thinks", "fields", "wanted"),
    [
        (SWITCH, True, {}, {}),
        ([], False, {"chat_template_kwargs": {}}, {}),
        (SWITCH, True, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (SWITCH, True, {"reasoning_effort": "low"}, {"enable_thinking": True}),
        (["thinking"], True, {"reasoning_effort": "none"}, {"thinking": False}),
        (["reasoning_effort"], True, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ([], False, {"reasoning_effort": "none"}, {}),
        (SWITCH, True, {"reasoning_effort": None, "chat_template_kwargs": None}, {}),
        (
            SWITCH,
            True,
            {"reasoning_effort": "high", "chat_template_kwargs": {"date": "x"}},
            {"date": "x", "enable_thinking": True},
        ),
        (
            SWITCH,
            True,
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False},
        ),
    ],
)
def test_what_the_template_is_told(
    known: list[str], thinks: bool, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert options(known, thinks, **fields) == wanted


@pytest.mark.parametrize(
    ("known", "thinks", "fields", "code", "param"),
    [
        ([], False, {"reasoning_effort": "low"}, "unsupported_parameter", "reasoning_effort"),
        ([], True, {"reasoning_effort": "none"}, "unsupported_parameter", "reasoning_effort"),
        (
            SWITCH,
            True,
            {"chat_template_kwargs": {"messages": "x"}},
            "unsupported_parameter",
            "chat_template_kwargs.messages",
        ),
        (
            SWITCH,
            True,
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            "invalid_request",
            "reasoning_effort",
        ),
    ],
)
def test_what_a_model_does_not_serve_is_refused_by_name(
    known: list[str], thinks: bool, fields: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        options(known, thinks, **fields)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"x": ["a"]}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": "a" * 257}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {str(n): 1 for n in range(17)}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": "", "reasoning_content": "x"}]}, "messages"),
    ],
)
def test_what_no_model_serves_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_body(json.dumps(BODY | fields).encode())
    assert caught.value.code == "invalid_request"
    assert caught.value.param.partition("[")[0] == param


# --- the session ----------------------------------------------------------------------------------
def agent(*known: str, thinks: bool = True) -> Agent:
    made = Agent()
    capabilities = [REASONING] if thinks else []
    made.handle(Ready(1.0, 1.0, capabilities=capabilities, template_options=list(known)))
    made.handle(Connected())
    return made


def said(effects: Sequence[object], kind: str) -> list[dict[str, Any]]:
    return [
        json.loads(each.message.payload)
        for each in effects
        if isinstance(each, Publish) and dict(each.message.user).get("ek-kind") == kind
    ]


def starts(effects: Sequence[object]) -> list[Start]:
    told = [each.message for each in effects if isinstance(each, Told)]
    return [each for each in told if isinstance(each, Start)]


def test_a_prompt_with_options_starts_with_them_or_is_refused_before_it_is_taken() -> None:
    body = BODY | {"chat_template_kwargs": {"enable_thinking": False}}
    (start,) = starts(agent("enable_thinking").prompt(body=body))
    assert start.options == {"enable_thinking": False}
    effects = agent().prompt(body=body)
    (error,) = said(effects, "error")
    assert error["error"]["param"] == "chat_template_kwargs.enable_thinking"
    assert not said(effects, "accepted")


def test_a_release_that_serves_less_refuses_what_the_one_before_it_took() -> None:
    first = agent("enable_thinking")
    first.prompt()  # keeps the one slot
    first.prompt("p2", body=BODY | {"reasoning_effort": "none"})
    again = first.restarted()
    again.handle(Connected())
    effects = again.handle(Ready(1.0, 1.0, 2, capabilities=[REASONING]))
    assert [start.key for start in starts(effects)] == ["alice/p1"]  # it runs alone
    effects = again.handle(Done("alice/p1", "Yo", "stop", Usage(1, 1, 2), TIMINGS))
    (error,) = said(effects, "error")
    assert error["error"]["param"] == "reasoning_effort"
    assert not starts(effects)


def test_card_delta_and_final_have_it() -> None:
    made = agent("enable_thinking")
    (card,) = [
        json.loads(each.message.payload)
        for each in made.handle(Connected())
        if isinstance(each, Publish) and each.message.topic.endswith("/card")
    ]
    assert REASONING in card["capabilities"]
    assert card["template_options"] == ["enable_thinking"]
    made.prompt()
    (delta,) = said(made.handle(Generated("alice/p1", "", "Hm.")), "delta")
    assert delta["choices"][0]["delta"] == {"reasoning_content": "Hm."}


def test_messages_reach_the_template_with_name_and_thinking() -> None:
    messages = [
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Yo", "reasoning_content": "Hm."},
        {"role": "user", "content": "Bye"},
    ]
    (start,) = starts(agent().prompt(body={"messages": messages}))
    assert start.messages == [
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Yo", "reasoning_content": "Hm."},
        ("user", "Bye"),
    ]


# --- the worker -----------------------------------------------------------------------------------
class Thoughtful(FakeTokenizer):
    """A model whose prompts open its thinking if they are told so."""

    template_texts = ("<think>", "</think>")

    def encode_around(self, turns: Any, tools: Any = (), options: Any = None) -> list[list[int]]:
        pieces = super().encode_around(turns, tools, {})
        if options and options.get("thinking"):
            pieces[-1] += self.encode("<think>\n")
        return pieces


def run(answer: str, **changes: Any) -> tuple[Done, list[Generated], FakeDecoder]:
    ours, theirs = socket.socketpair()
    tokenizer = Thoughtful()
    decoder = FakeDecoder(4096, [*tokenizer.encode(answer), EOS])
    worker = Worker(Pipe(theirs, ToWorker), decoder, tokenizer, lambda: 1.0)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    pipe: Pipe[FromWorker] = Pipe(ours, FromWorker)
    pipe.send(Start("a/1", "a", [("user", "Hi")], Sampling(), [], 500, 1e9, **changes))
    ours.settimeout(20)
    deltas: list[Generated] = []
    while not isinstance(message := pipe.receive(), Done):
        assert message is not None
        if isinstance(message, Generated):
            deltas.append(message)
    ours.close()
    thread.join(10)
    theirs.close()
    return message, deltas, decoder


@pytest.mark.parametrize("opened", [False, True])
def test_a_worker_says_thinking_apart(opened: bool) -> None:
    text = "Hm. So.\n</think>\n\nYes." if opened else "<think>\nHm. So.\n</think>\n\nYes."
    done, deltas, _ = run(text, options={"thinking": opened})
    assert (done.reasoning, done.text) == ("Hm. So.", "Yes.")
    assert "".join(each.reasoning for each in deltas) == "Hm. So."
    assert "".join(each.text for each in deltas) == "Yes."


def test_log_probabilities_are_those_of_all_tokens() -> None:
    done, _, _ = run("<think>Hm.</think>Yes.", top_logprobs=0)
    assert done.logprobs is not None
    assert "".join(each.token for each in done.logprobs) == "<think>Hm.</think>Yes."


# A form alone, and strict tools beside text
BOUND: list[dict[str, Any]] = [
    {"constraint": Constraint("regex", "Yes.")},
    {"constraint": Constraint("regex", "Yes."), "calling": Calling(OURS, ["door"])},
]


@pytest.mark.parametrize("bound", BOUND)
def test_what_is_constrained_is_the_answer(bound: dict[str, Any]) -> None:
    """A grammar cannot begin inside thinking, so thinking that the prompt opened is closed."""
    start = Start("k", "r", [("user", "Hi")], Sampling(), [], 9, 1e9, **bound)
    for thinking, end in ((True, "assistant:<think>\n</think>\n\n"), (False, "assistant:")):
        asked = msgspec.structs.replace(start, options={"thinking": thinking})
        admitted = admit(asked, Thoughtful(), Limits(1, 500, VOCABULARY), None, 1, None, THINK)
        assert bytes(admitted.items).decode().endswith(end)


@pytest.mark.parametrize("bound", BOUND)
def test_an_answer_with_a_form_is_not_taken_for_thinking(bound: dict[str, Any]) -> None:
    start = Start("k", "r", [("user", "Hi")], Sampling(), [], 9, 1e9, **bound)
    tokenizer = Thoughtful()
    reader = reader_of(start, tokenizer.encode("assistant:<think>\n"), tokenizer, THINK)
    pieces = [AnswerPiece("Yes.")] if reader is None else [reader.push("Yes."), reader.flush()]
    said = whole(pieces)
    assert (said.reasoning, said.text) == ("", "Yes.")

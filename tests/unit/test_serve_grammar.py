"""The worker with real grammars over a vocabulary of bytes: what is chosen, forced, refused, and
what others' answers notice of it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer

from edgekit.agent.serve.pipe import Cancel, Done, Generated, Heartbeat, Refused, Start
from edgekit.agent.serve.worker.grammar import grammars
from edgekit.agent.serve.worker.grammar.compiler import TokenCompiler
from edgekit.agent.serve.worker.grammar.grammars import Grammar, Grammars, NoCompilerError
from edgekit.agent.serve.worker.grammar.guide import GrammarError
from edgekit.agent.serve.worker.grammar.opening import open_compiler
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.sampling import Sampling
from edgekit.tokens.table import TokenTable
from tests.fakes.decoder import EOS, VOCABULARY
from tests.unit.test_serve_worker import NO_DEADLINE, TOKENIZER, Parent, worker

pytestmark = pytest.mark.timeout(30)

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> TokenCompiler:
    """For the fake tokenizer's vocabulary: a token is a byte."""
    return TokenCompiler(byte_table(VOCABULARY), [EOS])


def byte_table(size: int) -> TokenTable:
    tokenizer = Tokenizer.from_str(json.dumps(byte_tokenizer()))
    added = tokenizer.get_added_tokens_decoder()
    return TokenTable(tokenizer, {n: token.content for n, token in added.items()}, size)


def byte_tokenizer() -> dict[str, Any]:
    """A `tokenizer.json` in which token n is the byte n, as GPT-2 spells bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in spelled)
    spelled |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": EOS + n, "content": f"<|{n}|>", "special": True, **special} for n in range(4)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": {text: byte for byte, text in spelled.items()},
            "merges": [],
            "unk_token": None,
        },
    }


def schema(of: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(of))


def regex(of: str) -> Constraint:
    return Constraint("regex", of, param="regex")


def prompt(constraint: Constraint | None, key: str = "a/1", **more: Any) -> Start:
    fields: dict[str, Any] = {"sampling": Sampling(), "stops": [], "answer_limit": 200} | more
    turns = [("user", "Hi")]
    return Start(
        key,
        key.partition("/")[0],
        turns,
        deadline=NO_DEADLINE,
        constraint=constraint,
        **fields,
    )


@contextmanager
def running(
    answer: str, compiler: TokenCompiler, slow: Callable[[], object] = int, **options: Any
) -> Iterator[Parent]:
    """A worker whose model wants to say `answer`; `slow` is called before a grammar is made."""

    class Slow:
        def compile(self, constraint: Constraint) -> Grammar:
            slow()
            return compiler.compile(constraint)

    with worker(answer, grammars=Grammars(Slow), **options) as parent:
        yield parent


@pytest.mark.parametrize("batched", [False, True])
def test_an_answer_follows_its_schema_and_ends_with_it(
    compiler: TokenCompiler, batched: bool
) -> None:
    with running("I am nobody", compiler, batched=batched) as parent:
        for sampling in (Sampling(), Sampling(temperature=1.0, seed=1)):
            done = parent.done(prompt(schema({"const": {"a": [1, None]}}), sampling=sampling))
            assert (done.text, done.finish_reason) == ('{"a":[1,null]}', "stop")
            assert done.usage.completion_tokens == len(done.text)


def test_what_the_model_wants_to_say_is_said_where_the_grammar_allows_it(
    compiler: TokenCompiler,
) -> None:
    with running('{"name":"Zoë","age":7}', compiler) as parent:
        done = parent.done(prompt(schema(PERSON)))
    assert json.loads(done.text) == {"name": "Zoë", "age": 7}
    assert done.finish_reason == "stop"


def test_forced_tokens_go_in_as_slices_and_the_opening_with_the_prompt(
    compiler: TokenCompiler,
) -> None:
    with running('{"name":"A","age":7}', compiler) as parent:
        parent.done(prompt(schema(PERSON)))
        steps = [count for method, count in parent.decoder.calls if method == "step"]
        slices = [count for method, count in parent.decoder.calls if method == "extend"]
    asked = len(TOKENIZER.encode_chat([("user", "Hi")]))
    assert slices == [asked + len('{"name":"'), len('","age":')]
    assert steps == [1, 1]  # A, 7; what follows is known without the model


def test_an_answer_that_is_cut_says_so_and_a_whole_one_does_not(compiler: TokenCompiler) -> None:
    with running('{"name":"A","age":7}', compiler) as parent:
        whole = len('{"name":"A","age":7}')
        for limit in range(1, whole + 2):
            done = parent.done(prompt(schema(PERSON), answer_limit=limit))
            assert done.text == '{"name":"A","age":7}'[:limit]
            assert done.finish_reason == ("stop" if limit >= whole else "length")
            assert done.usage.completion_tokens == min(limit, whole)


@pytest.mark.parametrize("wanted", ['{"a":[1,null]}', '{"b":"x","c":[1,null]}'])
def test_an_answer_whose_forced_end_is_cut_says_so(compiler: TokenCompiler, wanted: str) -> None:
    """The grammar is at its end once it has forced the rest, whatever of it is said."""
    either = {"enum": [json.loads(wanted), {**json.loads(wanted), "d": "long"}]}
    for form in (schema({"const": json.loads(wanted)}), schema(either)):
        with running(wanted, compiler) as parent:
            for limit in range(1, len(wanted) + 2):
                done = parent.done(prompt(form, answer_limit=limit))
                assert done.text == wanted[:limit]
                assert done.finish_reason == ("stop" if limit >= len(wanted) else "length"), limit


def test_a_stop_string_ends_an_answer_also_among_forced_tokens(compiler: TokenCompiler) -> None:
    with running('{"name":"A","age":7}', compiler) as parent:
        assert parent.done(prompt(schema(PERSON), stops=["me"])).text == '{"na'
        done = parent.done(prompt(schema(PERSON), stops=['"age']))
    assert (done.text, done.finish_reason) == ('{"name":"A",', "stop")


def test_a_kept_prefix_holds_what_was_forced(compiler: TokenCompiler) -> None:
    """The chat goes on with the answer; its tokens are in the slot, in their order."""
    with running('{"name":"A","age":7}', compiler) as parent:
        parent.done(prompt(schema(PERSON)))
        held = bytes(token for token in parent.decoder.held[0] if token < EOS)
    assert held.endswith(b'{"name":"A","age":7')


def test_penalties_and_bias_choose_among_what_is_allowed(compiler: TokenCompiler) -> None:
    chosen = Sampling(logit_bias={ord("b"): 100.0})
    with running("nothing", compiler) as parent:
        assert parent.done(prompt(regex("[abc]"), sampling=chosen)).text == "b"
        hot = Sampling(temperature=1.0, top_k=1, top_p=0.1, min_p=0.5, seed=3)
        for key in ("a/1", "a/2", "a/3"):
            assert parent.done(prompt(regex("[xyz]{3}"), key, sampling=hot)).text.strip("xyz") == ""


def test_a_processor_that_forbids_all_that_is_allowed_gives_way(compiler: TokenCompiler) -> None:
    def nothing(answer: Sequence[int], logits: Any) -> None:
        logits[:] = -float("inf")

    for sampling in (Sampling(), Sampling(temperature=1.0)):
        with running("x", compiler, processors=lambda *_: [nothing]) as parent:
            assert parent.done(prompt(regex("[ab]"), sampling=sampling)).text in ("a", "b")


@pytest.mark.parametrize("batched", [False, True])
def test_answers_side_by_side_each_follow_their_own(compiler: TokenCompiler, batched: bool) -> None:
    both = {"enum": [{"name": name, "age": age} for name in "xy" for age in (1, 2)]}
    wanted = {"a/1": regex("[ab]{30}"), "b/1": schema(both), "c/1": None, "d/1": regex("x{25}y?")}
    with running("Paris.", compiler, slots=4, batched=batched) as parent:
        parent.pipe.sock.settimeout(10)
        parent.send(*(prompt(each, key) for key, each in wanted.items()))
        done: dict[str, str] = {}
        while len(done) < len(wanted):
            message = parent.pipe.receive()
            if isinstance(message, Done):
                done[message.key] = message.text
    assert len(done["a/1"]) == 30
    assert set(done["a/1"]) <= set("ab")
    assert set(json.loads(done["b/1"])) == {"name", "age"}
    assert done["c/1"] == "Paris."
    assert done["d/1"].rstrip("y") == "x" * 25


def test_others_answers_go_on_while_a_grammar_is_compiled(compiler: TokenCompiler) -> None:
    finish = threading.Event()
    with running("Paris.", compiler, lambda: finish.wait(10), slots=2) as parent:
        parent.pipe.sock.settimeout(10)
        parent.send(prompt(regex("a"), "a/1"))
        for number in range(3):
            assert parent.done(prompt(None, f"b/{number}")).text == "Paris."
        finish.set()
        while not isinstance(message := parent.pipe.receive(), Done):
            assert isinstance(message, Heartbeat | Generated)
    assert (message.key, message.text) == ("a/1", "a")


def test_a_prompt_that_waits_for_its_grammar_can_be_cancelled_and_the_worker_is_not_silent(
    compiler: TokenCompiler,
) -> None:
    finish = threading.Event()
    with running("Paris.", compiler, lambda: finish.wait(10)) as parent:
        parent.pipe.sock.settimeout(10)
        parent.send(prompt(regex("a")))
        assert isinstance(parent.pipe.receive(), Heartbeat)
        parent.pipe.send(Cancel("a/1"))
        while isinstance(message := parent.pipe.receive(), Heartbeat):
            pass
        assert isinstance(message, Done)
        assert message.finish_reason == "cancelled"
        finish.set()
        assert parent.done(prompt(regex("b"))).text == "b"


def test_a_grammar_that_takes_too_long_is_refused(
    compiler: TokenCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "COMPILE_SECONDS", 0.05)
    monkeypatch.setattr("edgekit.agent.serve.worker.worker.HEARTBEAT_SECONDS", 0.02)
    finish = threading.Event()
    with running("Paris.", compiler, lambda: finish.wait(10)) as parent:
        refused = parent.ask(prompt(regex("a")))
        finish.set()
    assert isinstance(refused, Refused)
    assert (refused.code, refused.param) == ("invalid_request", "regex")


def test_the_time_of_a_grammar_begins_when_its_compilation_does(
    compiler: TokenCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "COMPILE_SECONDS", 1.0)
    with running("x", compiler, lambda: time.sleep(0.4), slots=4) as parent:
        parent.pipe.sock.settimeout(10)
        parent.send(*(prompt(regex(text), f"{text}/1") for text in "abcd"))
        ended: list[Any] = []
        while len(ended) < 4:
            message = parent.pipe.receive()
            ended += [message] if isinstance(message, Done | Refused) else []
    assert [each.text for each in ended if isinstance(each, Done)] == list("abcd"), ended


def test_the_time_that_the_token_table_takes_is_no_grammars_time(
    compiler: TokenCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "COMPILE_SECONDS", 0.3)
    monkeypatch.setattr("edgekit.agent.serve.worker.worker.HEARTBEAT_SECONDS", 0.02)

    def opened() -> TokenCompiler:
        time.sleep(0.7)
        return compiler

    with worker("x", grammars=Grammars(opened)) as parent:
        assert parent.done(prompt(regex("ab"))).text == "ab"


def test_a_compilation_that_never_ends_holds_up_no_other_three_times_over(
    compiler: TokenCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "COMPILE_SECONDS", 0.3)
    monkeypatch.setattr("edgekit.agent.serve.worker.worker.HEARTBEAT_SECONDS", 0.02)
    finish = threading.Event()

    class Endless:
        def compile(self, constraint: Constraint) -> Grammar:
            if "never" in constraint.source:
                finish.wait(20)
            return compiler.compile(constraint)

    def stuck(number: int) -> Start:
        return prompt(regex(f"never{number}"), f"a/{number}")

    try:
        with worker("x", grammars=Grammars(Endless), slots=2) as parent:
            for number in range(2):
                parent.pipe.send(stuck(number))
                parent.pipe.send(prompt(regex(f"b{number}"), "b/1"))
                parent.pipe.sock.settimeout(10)
                ended: dict[str, object] = {}
                while len(ended) < 2:
                    message = parent.pipe.receive()
                    if isinstance(message, Done | Refused):
                        ended[message.key] = message
                late, done = ended[f"a/{number}"], ended["b/1"]
                assert isinstance(late, Refused)
                assert "not compiled within" in late.message
                assert isinstance(done, Done)
                assert done.text == f"b{number}"
            assert isinstance(parent.ask(stuck(2)), Refused)
            last = parent.ask(prompt(regex("c")))
            assert isinstance(last, Refused)
            assert (last.code, last.param) == ("internal", "regex")
            assert parent.done(prompt(regex("b0"))).text == "b0"  # compiled before
    finally:
        finish.set()


@pytest.mark.parametrize("kind", ["rules", "terminals", "schemas"])
def test_names_that_lead_on_and_on_do_not_end_the_models_process(
    compiler: TokenCompiler, kind: str
) -> None:
    """They are more than a prompt may have, and as many as 64 KiB hold."""
    name = "R" if kind == "terminals" else "r"
    text = "".join(f"{name}{n}: {name}{n + 1}\n" for n in range(4600))
    asked = Constraint("lark", f'start: {name}0\n{text}{name}4600: "a"')
    if kind == "schemas":
        own: dict[str, Any] = {
            f"{n}": {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}, {"const": 1}]} for n in range(1500)
        }
        asked = schema({"$defs": {**own, "1500": {"const": 1}}, "$ref": "#/$defs/0"})
    with running("a", compiler) as parent:
        assert isinstance(parent.ask(prompt(asked)), Done | Refused)
        assert parent.done(prompt(regex("b"))).text == "b"


def test_each_grammar_is_compiled_once_and_the_oldest_are_forgotten(
    compiler: TokenCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "KEPT", 2)
    made: list[int] = []
    with running("x", compiler, lambda: made.append(1)) as parent:
        for text in "aabbaa":
            assert parent.done(prompt(regex(text))).text == text
        assert len(made) == 2
        for text in "cab":
            assert parent.done(prompt(regex(text))).text == text
    assert len(made) == 4  # "b" was forgotten for "c"


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (
            schema({"type": "object", "properties": {"a": {"pattern": "^a(?=b)"}}}),
            ", at /properties/a of the schema",
        ),
        (
            schema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5, "maximum": 3},
                              {"items": {"oneOf": [{}, {"type": "string"}]}}]}),
            ", at /anyOf/2/items of the schema",
        ),
        (schema({"allOf": [True, False]}), ", at the root of the schema"),
        (regex("a("), "regex parse error"),
        (regex("(?=a)b"), "look-around"),
        (Constraint("lark", "start: b"), "unknown name"),
        (Constraint("lark", 'start: "a" <|1|>'), "control token"),
        (Constraint("lark", 'start: /a?/ <|1|> "b"'), "the grammar is too complex after|no token"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_with_its_place(
    compiler: TokenCompiler, constraint: Constraint, said: str
) -> None:
    with running("a" * 50, compiler) as parent:
        refused = parent.ask(prompt(constraint))
        assert isinstance(refused, Refused), refused
        assert refused.code == "invalid_request"
        assert refused.param == constraint.param
        assert any(part in refused.message for part in said.split("|")), refused.message
        assert parent.done(prompt(regex("b"))).text == "b"


@pytest.mark.parametrize(
    "said",
    [
        r'{"\u0061":"x"}',
        r'{"\/":"x"}',
        r'{"a":5,"b":[{"\u0065":"x"}]}',
        r'{"q\"":"x"}',
        r'{"q\u0022":"x"}',
        r'{"b":"\ud83d"}',
    ],
)
def test_no_key_gets_around_its_schema_by_escapes_and_no_string_has_half_a_character(
    compiler: TokenCompiler, said: str
) -> None:
    number = {"type": "integer"}
    inner = {"type": "object", "properties": {"e": number}}
    others = {"anyOf": [{"type": "string"}, {"type": "array", "items": inner}]}
    open_form = {
        "type": "object",
        "properties": {"a": number, 'q"': number},
        "additionalProperties": others,
    }
    with running(said, compiler) as parent:
        done = parent.done(prompt(schema(open_form), answer_limit=60))
    read = json.loads(done.text) if done.finish_reason == "stop" else {}
    jsonschema.validate(read, open_form)
    assert not re.search(r"\\u(?!00[01]|0{0,2}$)|\\/", done.text)
    done.text.encode()


def test_a_trusted_grammar_may_name_control_tokens(compiler: TokenCompiler) -> None:
    ours = Constraint("lark", 'start: "a" <|1|> "b"', trusted=True)
    with running("x", compiler) as parent:
        assert parent.done(prompt(ours)).text == "ab"  # the stream shows no control token
        assert parent.decoder.held[0][-2:] != [ord("a"), ord("b")]


def test_a_grammar_that_grows_too_complex_ends_the_answer_by_name(compiler: TokenCompiler) -> None:
    ambiguous = Constraint("lark", 'start: start start | "a"', param="grammar")
    with running("a" * 500, compiler) as parent:
        refused = parent.ask(prompt(ambiguous, answer_limit=1000))
        assert isinstance(refused, Refused)
        assert (refused.code, refused.param) == ("invalid_request", "grammar")
        assert "too complex after" in refused.message
        assert parent.done(prompt(regex("b"))).text == "b"


def test_a_device_without_the_library_or_the_memory_refuses_and_tries_again(
    compiler: TokenCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1 << 20, 1 << 40]

    def opened() -> Any:
        return open_compiler(byte_table, VOCABULARY, [EOS], lambda: free.pop(0))

    with worker("x", grammars=Grammars(opened)) as parent:
        refused = parent.ask(prompt(regex("a")))
        assert isinstance(refused, Refused)
        assert (refused.code, refused.param) == ("out_of_memory", "regex")
        assert parent.done(prompt(regex("a"))).text == "a"
    monkeypatch.setattr("edgekit.agent.serve.worker.grammar.opening.find_spec", lambda _: None)
    with pytest.raises(NoCompilerError, match="no llguidance"):
        opened()
    with worker("x") as parent:
        refused = parent.ask(prompt(regex("a")))
        assert isinstance(refused, Refused)
        assert refused.code == "unsupported_parameter"


def test_a_failure_of_the_compiler_itself_is_a_refusal() -> None:
    class Broken:
        def compile(self, constraint: Constraint) -> Grammar:
            raise SystemError("a panic")

    with worker("x", grammars=Grammars(Broken)) as parent:
        refused = parent.ask(prompt(regex("a")))
    assert isinstance(refused, Refused)
    assert "a panic" in refused.message


def test_a_longrope_slot_is_computed_again_when_forced_tokens_cross_the_threshold(
    compiler: TokenCompiler,
) -> None:
    asked = len(TOKENIZER.encode_chat([("user", "Hi")]))
    text = '{"name":"A","age":7}'
    for more in range(len(text)):
        with running(text, compiler, rope_threshold=asked + more) as parent:
            assert parent.done(prompt(schema(PERSON))).text == text
            slices = [count for method, count in parent.decoder.calls if method == "extend"]
        assert max(slices) > asked + more or more >= len(text) - 2  # one slice above the threshold


def test_no_word_of_the_library_is_too_long(compiler: TokenCompiler) -> None:
    with pytest.raises(GrammarError) as caught:
        compiler.compile(Constraint("regex", "(" * 5000))
    assert len(str(caught.value)) < 400

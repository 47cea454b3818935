"""Grammars of calls in each format: whatever tokens are drawn, calls parse and fit the schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer

from edgekit.agent.serve.worker.grammar.compiler import TokenCompiler
from edgekit.agent.serve.worker.grammar.guide import Guide
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.calls import joined
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.request import ChatRequest
from edgekit.core.chat.tools.forcing import MAX_CALLS, constraint
from edgekit.core.chat.tools.formats import FORMATS, OURS, ToolFormat, written
from edgekit.core.chat.tools.prompt import calling, told
from edgekit.core.chat.tools.reading import read_all
from edgekit.core.protocol.wire import ProtocolError
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from tests.models.chat_templates import CHATML
from tests.models.tokenizer_kinds import make_tokenizer
from tests.models.tool_templates import FAMILY_TAGS, TEXT_TAGS

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "at": {"$ref": "#/$defs/place"},
    },
    "required": ["city"],
    "$defs": {"place": {"type": "object", "properties": {"n": {"enum": ["a", 1, None]}}}},
}
SCHEMAS: dict[str, dict[str, Any]] = {"get_weather": WEATHER, "get_time": {"maxProperties": 0}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": {"done": True}}}}
END = "<|im_end|>"
MOST = 400  # tokens of an answer
TAGS = sorted({tag for tags in FAMILY_TAGS.values() for tag in tags})


@pytest.fixture(scope="module", params=["tags are tokens", "tags are text"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ChatTokenizer, TokenCompiler]:
    """A tokenizer that knows every family's tags or none, and what compiles for it."""
    known = (TAGS, TEXT_TAGS) if request.param == "tags are tokens" else ((), ())
    folder = make_tokenizer("byte-bpe", tmp_path_factory.mktemp("tokens"), CHATML, *known)
    tokenizer = open_tokenizer(folder)
    return tokenizer, compiler_of(folder, tokenizer)


def compiler_of(folder: Path, tokenizer: ChatTokenizer) -> TokenCompiler:
    """What compiles for the tokens of a folder."""
    words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    return TokenCompiler(tokenizer.table(words), tokenizer.encode(END))


def asking(choice: Any = "required", *, strict: bool = False, **more: Any) -> ChatRequest:
    tools = [
        {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
        {"type": "function", "function": {"name": "get_time", "strict": strict}},
    ]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice}
    return parse_body(json.dumps({**body, **more}).encode())


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def drawn(guide: Guide, end: int, draw: np.random.Generator) -> list[int]:
    """An answer of random tokens among those that the grammar allows."""
    tokens = list(guide.opening)
    while not guide.ended and len(tokens) < MOST:
        allowed = np.flatnonzero(guide.allowed())
        token = int(draw.choice(allowed))
        if end in allowed and (draw.random() < 0.3 or token == end):
            break
        guide.take(token)
        tokens += [token, *guide.forced()]
    return tokens


def answers(
    model: tuple[ChatTokenizer, TokenCompiler], asked: ChatRequest, how: ToolFormat, count: int = 25
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Text and calls of whole answers."""
    tokenizer, compiler = model
    bound = constraint(asked, how)
    assert bound is not None
    assert bound.trusted
    begun, read = compiler.compile(bound), calling(asked, how)
    assert read is not None
    (end,) = tokenizer.encode(END)
    found = []
    for seed in range(count):
        tokens = drawn(begun.copy(), end, np.random.default_rng(seed))
        if len(tokens) >= MOST:
            continue
        stream = tokenizer.stream(read.shown)
        said, deltas = read_all(read, "".join(map(stream.decode, tokens)))
        calls = [(call.function.name, call.function.arguments) for call in joined(deltas)]
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
        found.append((said, calls))
    assert len(found) > count // 2
    return found


def format_of(tokenizer: ChatTokenizer, name: str) -> ToolFormat:
    """The format as `pack` records it."""
    return ToolFormat(name, tokenizer.added_ids(FORMATS[name].tags))


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_is_required_is_the_whole_answer(
    model: tuple[ChatTokenizer, TokenCompiler], name: str
) -> None:
    how = format_of(model[0], name)
    for said, calls in answers(model, asking(), how):
        assert not said
        assert 1 <= len(calls) <= (MAX_CALLS if FORMATS[name].many else 1)
    for said, calls in answers(model, asking(parallel_tool_calls=False), how):
        assert (said, len(calls)) == ("", 1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_that_is_named_is_called_once(
    model: tuple[ChatTokenizer, TokenCompiler], name: str
) -> None:
    how = format_of(model[0], name)
    for said, calls in answers(model, asking(named("get_time")), how, 3):
        assert (said, calls) == ("", [("get_time", "{}")])
    for said, calls in answers(model, asking(named("get_weather")), how, 10):
        assert (said, [name for name, _ in calls]) == ("", ["get_weather"])


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {
        "type": "allowed_tools",
        "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]},
    }


def test_of_the_tools_some_alone_are_told_and_called(
    model: tuple[ChatTokenizer, TokenCompiler],
) -> None:
    how = format_of(model[0], "hermes")
    for said, calls in answers(model, asking(allowed("required", "get_time")), how, 3):
        assert (said, {*calls}) == ("", {("get_time", "{}")})
    asked = asking(allowed("auto", "get_weather"))
    assert constraint(asked, how) is None
    shown = str(told(asked, how))
    assert "get_weather" in shown
    assert "get_time" not in shown
    read = calling(asked, how)
    assert read is not None
    other = written(FORMATS["hermes"], [("get_time", "{}")])
    assert read_all(read, other) == (other, [])


@pytest.mark.parametrize("name", FORMATS)
def test_where_the_model_is_free_a_strict_tool_binds_its_calls(
    model: tuple[ChatTokenizer, TokenCompiler], name: str
) -> None:
    form, asked = FORMATS[name], asking("auto", strict=True)
    how = format_of(model[0], name)
    answers(model, asked, how)  # what calls it has fit
    begun = compiled(model, constraint(asked, how))
    follow(model[0], begun, "" if "" in form.opens else "Well. ")
    head = form.head + form.begin
    follow(model[0], begun, head)
    (unknown,) = model[0].encode("z")
    assert not begun.allowed()[unknown], "no tool's name begins so"
    follow(model[0], begun, "get_time" + form.middle + "{")
    allowed = set(np.flatnonzero(begun.allowed()).tolist())
    assert {model[0].encode("}")[0]} <= allowed
    assert not {model[0].encode('"')[0], unknown} & allowed, "it has no arguments"


# Calls in spellings that are read where nothing binds the model
SPELLED = [
    ("phi4-mini", 'functools[{"name": "get_time", "arguments": {"x": 1}}]'),
    ("granite", '<tool_call>[{"name": "get_time", "arguments": {"x": 1}}]'),
    ("llama3", '<|python_tag|>{"name": "get_time", "parameters": {"x": 1}}'),
]


@pytest.mark.parametrize(("name", "text"), SPELLED)
def test_a_spelling_that_a_strict_tool_does_not_bind_is_no_call(name: str, text: str) -> None:
    for strict, wanted in ((True, (text, [])), (False, ("", ["get_time"]))):
        read = calling(asking("auto", strict=strict), ToolFormat(name))
        assert read is not None
        said, deltas = read_all(read, text)
        assert (said, [call.function.name for call in joined(deltas)]) == wanted


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].tag])
def test_a_strict_tool_binds_calls_however_their_tag_is_spelled(
    model: tuple[ChatTokenizer, TokenCompiler], name: str
) -> None:
    form, how = FORMATS[name], format_of(model[0], name)
    letters = [model[0].encode(letter) for letter in form.tag]
    assert all(len(tokens) == 1 for tokens in letters)
    begun = compiled(model, constraint(asking("auto", strict=True), how))
    for (token,) in letters[:-1]:
        assert begun.allowed()[token]
        begun.take(token)
    ((last,),) = letters[-1:]
    if form.tag in how.tokens:
        assert not begun.allowed()[last], "only the tag's own token opens a call"
        return
    begun.take(last)
    (unknown,) = model[0].encode("z")
    assert not begun.allowed()[unknown]


def test_behind_a_list_of_bound_calls_nothing_is_read_as_a_call(
    model: tuple[ChatTokenizer, TokenCompiler],
) -> None:
    how = format_of(model[0], "granite")
    begun = compiled(model, constraint(asking("auto", strict=True), how))
    follow(model[0], begun, '<|tool_call|>[{"name": "get_time", "arguments": {}}]')
    assert begun.ended or not begun.allowed()[model[0].encode("{")[0]]


def compiled(model: tuple[ChatTokenizer, TokenCompiler], bound: Constraint | None) -> Guide:
    assert bound is not None
    return model[1].compile(bound).copy()


def follow(tokenizer: ChatTokenizer, guide: Guide, text: str) -> None:
    """Take a text's tokens, one character each where they are not special."""
    for token in tokenizer.encode(text):
        assert guide.allowed()[token], (text, token)
        guide.take(token)


def test_a_format_of_the_answer_leaves_calls_as_the_other_way(
    model: tuple[ChatTokenizer, TokenCompiler],
) -> None:
    for name in FORMATS:
        how = format_of(model[0], name)
        for said, calls in answers(model, asking("auto", response_format=FORMAT), how):
            assert bool(said) != bool(calls)
            assert said in {"", '{"done": true}'}, "spaces are those of calls"


@pytest.mark.parametrize("name", FORMATS)
def test_json_of_a_schema_that_looks_like_a_call_is_no_call(
    model: tuple[ChatTokenizer, TokenCompiler], name: str
) -> None:
    wanted = {"name": "get_time", "arguments": {"at": 5}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": wanted}}}
    for said, calls in answers(
        model, asking("auto", response_format=form), format_of(model[0], name)
    ):
        assert bool(said) != bool(calls)
        assert not said or json.loads(said) == wanted


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_arguments_have_no_key_twice(
    model: tuple[ChatTokenizer, TokenCompiler], name: str, choice: str
) -> None:
    """Also behind text that looks like JSON; keys that no schema lists may come otherwise."""
    form, how = FORMATS[name], format_of(model[0], name)
    free = {"type": "object", "additionalProperties": {"type": "integer"}}
    function = {"name": "f", "parameters": free, "strict": True}
    asked = asking(choice, tools=[{"type": "function", "function": function}])
    begun = compiled(model, constraint(asked, how))
    said = 'I "{"a": 1, "a": 2} ' if choice == "auto" and "" not in form.opens else ""
    text = f'{said}{form.head}{form.begin}f{form.middle}{{"a": 1, "b": 2, "a'
    tokens, (quote,) = model[0].encode(text), model[0].encode('"')
    given = list(begun.opening)
    for at, token in enumerate(tokens):
        if at >= len(given):
            assert begun.take(token), tokens[:at]
            given += [token, *begun.forced()]
    assert given == tokens
    assert begun.allowed()[quote]
    assert not begun.take(quote)


def test_arguments_may_require_what_the_schema_does_not_describe(
    model: tuple[ChatTokenizer, TokenCompiler],
) -> None:
    how = format_of(model[0], "hermes")
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "b"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    begun = compiled(model, constraint(asking("required", tools=tools), how))
    form = FORMATS["hermes"]
    tokens = model[0].encode(f'{form.begin}f{form.middle}{{"a": 1, "b": 2}}')
    opening = list(begun.opening)
    assert tokens[: len(opening)] == opening
    assert all(begun.take(token) for token in tokens[len(opening) :])


def test_without_need_there_is_no_grammar() -> None:
    assert constraint(asking("auto"), ToolFormat()) is None
    assert constraint(asking("none", strict=True), ToolFormat()) is None
    bound = constraint(asking("none", response_format=FORMAT), ToolFormat())
    assert bound is not None
    assert bound.kind == "json_schema"


BAD: list[tuple[str, Mapping[str, Any]]] = [
    ("unevaluatedProperties", {"unevaluatedProperties": False}),
    ("x-guidance", {"x-guidance": {"whitespace_pattern": ".*"}}),
    ("/properties/a", {"properties": {"a": {"format": "regex"}}}),
    ("/properties/a", {"properties": {"a": {"$ref": "http://example.org/a.json"}}}),
    ("recursion", {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
]


@pytest.mark.parametrize(("place", "parameters"), BAD)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(
    place: str, parameters: Mapping[str, Any]
) -> None:
    function = {"name": "f", "parameters": parameters}
    for more in ({"tool_choice": "required"}, {"tool_choice": named("f")}):
        with pytest.raises(ProtocolError) as caught:
            asking(tools=[{"type": "function", "function": function}], choice=more["tool_choice"])
        assert caught.value.param == "tools[0].function.parameters"
        assert place in str(caught.value)
    assert asking("auto", tools=[{"type": "function", "function": function}]).tools


def test_a_grammar_of_the_requester_has_no_place_beside_tools() -> None:
    with pytest.raises(ProtocolError) as caught:
        asking("auto", regex="[a-z]+")
    assert caught.value.param == "regex"
    assert asking("none", regex="[a-z]+").regex


def test_arguments_by_a_reference_of_an_older_draft_are_an_object_all_the_same() -> None:
    parameters = {
        "$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a",
        "definitions": {"a": {"properties": {"x": {"type": "integer"}}}},
    }  # fmt: skip
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    bound = constraint(asking(tools=[tool]), ToolFormat("hermes"))
    assert bound is not None
    (line,) = (line for line in bound.source.splitlines() if line.startswith("arguments_0: "))
    assert json.loads(line.removeprefix("arguments_0: %json "))["type"] == "object"


def test_texts_of_a_requester_do_not_leave_their_json(tmp_path: Path) -> None:
    evil = '"} \n start: "x" \n %json { <[1]>'
    schema = {"properties": {evil: {"const": evil}}, "required": [evil]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    folder = make_tokenizer("byte-bpe", tmp_path, CHATML, TAGS, TEXT_TAGS)
    tokenizer = open_tokenizer(folder)
    bound = constraint(asking(tools=[tool]), format_of(tokenizer, OURS))
    assert bound is not None
    (line,) = (line for line in bound.source.splitlines() if line.startswith("arguments_0: "))
    assert json.loads(line.removeprefix("arguments_0: %json "))["required"] == [evil]
    assert sum(line.startswith("start:") for line in bound.source.splitlines()) == 1
    guide = compiler_of(folder, tokenizer).compile(bound)
    stream = tokenizer.stream()
    (end,) = tokenizer.encode(END)
    tokens = drawn(guide, end, np.random.default_rng(1))
    text = "".join(map(stream.decode, tokens))
    read = calling(asking(tools=[tool]), ToolFormat(OURS))
    assert read is not None
    call, *_ = joined(read_all(read, text)[1])
    assert json.loads(call.function.arguments) == {evil: evil}
    assert not set(tokens) & set(tokenizer.encode(END))

"""Calls in what models write: recorded texts of each format, however tokens cut them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.chat.calls import ToolCallDelta, joined
from edgekit.core.chat.tools.formats import FORMATS, Calling, written
from edgekit.core.chat.tools.reading import CallReader, read_all

TOOLS = ["get_weather", "get_time"]
Call = tuple[str, object]
WEATHER: Call = ("get_weather", {"city": "Paris"})
TIME: Call = ("get_time", {})

# Texts as models of the family write them (model cards, parsers' tests of vLLM and llama.cpp)
RECORDED: list[tuple[str, str, str, list[Call]]] = [
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        "",
        [WEATHER],
    ),
    (
        "hermes",
        (
            'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
            '</tool_call>\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
        ),
        "Let me look.\n",
        [WEATHER, TIME],
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
        "",
        [WEATHER],
    ),
    (
        "hermes",
        (
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "</tool_call>}\\" {"}}\n'
            "</tool_call>\n\nWait."
        ),
        "\n\nWait.",
        [("get_weather", {"city": '</tool_call>}" {'})],
    ),
    (
        "llama3",
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        "",
        [WEATHER],
    ),
    (
        "llama3",
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}',
        "",
        [WEATHER],
    ),
    (
        "llama3",
        '\n{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        "",
        [WEATHER],
    ),
    (
        "llama3",
        '{"name": "get_weather", "parameters": "{\\"city\\": \\"Paris\\"}"}',
        "",
        [WEATHER],
    ),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "x9aB3kQ1z"}]',
        "",
        [WEATHER],
    ),
    (
        "mistral",
        '[TOOL_CALLS][{"name":"get_weather","arguments":{"city":"Paris"}},{"name":"get_time"}]',
        "",
        [WEATHER, TIME],
    ),
    (
        "mistral-args",
        'Sure. [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]get_time[ARGS]{}',
        "Sure. ",
        [WEATHER, TIME],
    ),
    (
        "mistral-args",
        '[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{"city": "Paris"}',
        "",
        [WEATHER],
    ),
    (
        "phi4-mini",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>',
        "",
        [WEATHER],
    ),
    (
        "phi4-mini",
        (
            'functools[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
            '{"name": "get_time", "arguments": {}}]'
        ),
        "",
        [WEATHER, TIME],
    ),
    (
        "granite",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        "",
        [WEATHER],
    ),
    (
        "granite",
        '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        "",
        [WEATHER],
    ),
    (
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
        "",
        [WEATHER],
    ),
    (
        "functiongemma",
        (
            '<start_function_call>call:get_weather{city:<escape>a, {b}: "c"\n<escape>,days:3,'
            "deep:{on:true,of:[1,<escape>x<escape>,null]},word:mild}<end_function_call>"
        ),
        "",
        [
            (
                "get_weather",
                {
                    "city": 'a, {b}: "c"\n',
                    "days": 3,
                    "deep": {"on": True, "of": [1, "x", None]},
                    "word": "mild",
                },
            )
        ],
    ),
    (
        "gemma4",
        (
            'Now.<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>'
            "<|tool_call>call:get_time{}<tool_call|>"
        ),
        "Now.",
        [WEATHER, TIME],
    ),
    (
        "edgekit",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>',
        "",
        [WEATHER],
    ),
]
# Arguments told twice, and words that no JSON has
ODD: list[tuple[str, str, str, list[Call]]] = [
    (
        "hermes",
        '<tool_call>{"name": "get_time", "parameters": {}, "arguments": {"a": 1}}</tool_call>',
        "",
        [TIME],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_time", "arguments": null, "parameters": {"a": 1}}</tool_call>',
        "",
        [("get_time", {"a": 1})],
    ),
    (
        "hermes",
        '<tool_call>{"arguments": "{}", "arguments": {"a": 1}, "name": "get_time"}</tool_call>',
        "",
        [TIME],
    ),
    (
        "gemma4",
        "<|tool_call>call:get_time{a:NaN,b:[Infinity,-Infinity,-1]}<tool_call|>",
        "",
        [("get_time", {"a": "NaN", "b": ["Infinity", "-Infinity", -1]})],
    ),
]
# Names told twice, and half a character, which no message carries
ODD += [
    (
        "hermes",
        '<tool_call>{"name": "get_time", "arguments": {}, "name": "get_weather"}</tool_call>',
        "",
        [TIME],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_time", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>',
        "",
        [("get_time", {"a": "\ud800"})],
    ),
]
ODD += [
    (
        "functiongemma",
        (
            "<start_function_call>call:get_time{None:None,b:[True,False,Nones],"
            "c:<escape>None<escape>}<end_function_call>"
        ),
        "",
        [("get_time", {"None": None, "b": [True, False, "Nones"], "c": "None"})],
    ),
]
# Calls whose ends are not what the format asks for
DAMAGED: list[tuple[str, str, str, list[Call]]] = [
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}</tool_call>',
        "",
        [WEATHER],
    ),
    (
        "hermes",
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}</tool_call>\n'
            '<tool_call>{"name": "get_time", "arguments": {}}</tool_call> Wait.'
        ),
        " Wait.",
        [WEATHER, TIME],
    ),
    (
        "phi4-mini",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}]<|/tool_call|>',
        "",
        [WEATHER],
    ),
    (
        "hermes",
        '<tool_call>{"name": "launch", <tool_call>{"name": "get_time", "arguments":{}}</tool_call>',
        '<tool_call>{"name": "launch", ',
        [TIME],
    ),
    ("mistral", '[TOOL_CALLS] [{"name": "get_time", "arguments": {}}] tail', "tail", [TIME]),
    ("mistral", '[TOOL_CALLS] [{"name": "get_time", "arguments": {}] tail', "tail", [TIME]),
    ("mistral-args", "[TOOL_CALLS]get_time[ARGS]{} and text", "and text", [TIME]),
]
# Calls that break, with text behind their closing tag; arguments as they were until then
BROKEN: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}}\n</tool_call>\nSo.',
        "\nSo.",
        [("get_weather", '{"city": "Paris"}')],
    ),
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}"}}\n</tool_call> So.',
        " So.",
        [("get_weather", '{"city": "Paris"}')],
    ),
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}} ok </tool_call> So.',
        "ok  So.",
        [("get_weather", '{"city": "Paris"}')],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"</tool_call> So: </a>.',
        " So: </a>.",
        [("get_weather", '{"city": "Paris"')],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris</tool_call> He said "so".',
        ' He said "so".',
        [("get_weather", '{"city": "Paris')],
    ),
    (
        "hermes",
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris</tool_call>\n'
            '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>So.'
        ),
        "So.",
        [("get_weather", '{"city": "Paris'), ("get_time", "{}")],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"days": [1, 2}}</tool_call>So.',
        "So.",
        [("get_weather", '{"days": [1, 2')],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": nothing</tool_call>So.',
        "So.",
        [("get_weather", "")],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"a": 1}] and a lot</tool_call>So.',
        "So.",
        [("get_weather", '{"a": 1}')],
    ),
    (
        "edgekit",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}}</tool_call> So.',
        " So.",
        [("get_weather", '{"city": "Paris"}')],
    ),
    (
        "granite",
        '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}]</tool_call>So.',
        "So.",
        [("get_weather", '{"city": "Paris"}')],
    ),
    (
        "phi4-mini",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Pa<|/tool_call|>So.',
        "So.",
        [("get_weather", '{"city": "Pa')],
    ),
    (
        "functiongemma",
        (
            "<start_function_call>call:get_weather{city:<escape>Paris<end_function_call>"
            "So <escape>.</escape>"
        ),
        "So <escape>.</escape>",
        [("get_weather", '{"city": "Paris')],
    ),
    (
        "functiongemma",
        "<start_function_call>call:get_weather{city:Paris<end_function_call>So {a}.",
        "So {a}.",
        [("get_weather", '{"city": ')],
    ),
    (
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>Paris]<tool_call|>So.',
        "So.",
        [("get_weather", '{"city": "Paris]')],
    ),
    (
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>]}<tool_call|>So.',
        "So.",
        [("get_weather", '{"city": "Paris"')],
    ),
    # formats without a closing tag
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}}] So.',
        "So.",
        [("get_weather", '{"city": "Paris"}')],
    ),
    (
        "mistral-args",
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"]So.',
        "So.",
        [("get_weather", '{"city": "Paris"')],
    ),
    (
        "llama3",
        '{"name": "get_weather", "parameters": {"city": ["Paris"}} So.',
        "",
        [("get_weather", '{"city": ["Paris"')],
    ),
]
# Texts that look like calls, and are none
TEXTS = [
    ("hermes", "I would use <tool_call> for that."),
    ("hermes", '<tool_call>\n{"name": "launch", "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name" "get_time"}'),
    ("hermes", '<tool_call>\n{"name": "get_ti'),
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_call>\n</tool_call>"),
    ("hermes", "a <b> <tool"),
    ("hermes", "Either <tool_call> or <tool_call>\n<tool_call> it is."),
    ("hermes", " <tool_call>[<tool_call></tool_call>."),
    ("phi4-mini", "import functools\nfunctools.cache(functools, functools2)"),
    ("phi4-mini", "\n functools"),
    ("mistral", "\n[TOOL_CALLS] [[TOOL_CALLS] [1]]"),
    ("hermes", '{"name": "get_time", "arguments": {}}'),
    ("llama3", '{"temperature": 21}'),
    ("llama3", '{"name": "launch", "parameters": {}}'),
    ("llama3", 'It is {"name": "get_time", "parameters": {}}'),
    ("llama3", "{not json"),
    ("mistral", "[TOOL_CALLS] nothing"),
    ("mistral", "[1, 2]"),
    ("granite", "<|tool_call|>[]"),
    ("phi4-mini", "functools is a module of Python."),
    ("functiongemma", "<start_function_call>call:launch{}<end_function_call>"),
    ("functiongemma", "<start_function_call>get_time{}"),
    ("edgekit", "  "),
    ("edgekit", "\n Hello \n"),
]


def found(deltas: list[ToolCallDelta]) -> list[Call]:
    calls = [call.function for call in joined(deltas)]
    return [(each.name, json.loads(each.arguments)) for each in calls]


def cut(calling: Calling, text: str, seed: int) -> tuple[str, list[ToolCallDelta]]:
    """The answer in pieces of random sizes."""
    draw = random.Random(seed)
    reader = CallReader(calling, lambda: "id")
    said, deltas, at = "", list[ToolCallDelta](), 0
    while at < len(text):
        size = draw.randint(1, 6)
        more, calls = reader.push(text[at : at + size])
        said, deltas, at = said + more, deltas + calls, at + size
    more, calls = reader.flush()
    return said + more, deltas + calls


@pytest.mark.parametrize(("form", "text", "said", "calls"), RECORDED + DAMAGED + ODD)
def test_recorded_calls_are_found_however_tokens_cut_them(
    form: str, text: str, said: str, calls: list[Call]
) -> None:
    calling = Calling(form, TOOLS)
    whole = read_all(calling, text)
    assert (whole[0], found(whole[1])) == (said, calls)
    for seed in range(50):
        pieces = cut(calling, text, seed)
        assert (pieces[0], found(pieces[1])) == (said, calls)


def test_every_format_has_recorded_texts() -> None:
    assert {form for form, *_ in RECORDED} == set(FORMATS) == {form for form, *_ in BROKEN}


@pytest.mark.parametrize(("form", "text", "said", "calls"), BROKEN)
def test_a_call_that_breaks_shows_no_closing_tag_and_loses_no_text_behind_it(
    form: str, text: str, said: str, calls: list[tuple[str, str]]
) -> None:
    for pieces in every_cut(Calling(form, TOOLS), text):
        functions = [call.function for call in joined(pieces[1])]
        assert (pieces[0], [(each.name, each.arguments) for each in functions]) == (said, calls)


def every_cut(calling: Calling, text: str) -> Iterator[tuple[str, list[ToolCallDelta]]]:
    """The answer whole, in pieces of every length, and cut once at every place."""
    yield read_all(calling, text)
    for size in range(1, len(text)):
        yield in_pieces(calling, [text[at : at + size] for at in range(0, len(text), size)])
        yield in_pieces(calling, [text[:size], text[size:]])


def in_pieces(calling: Calling, pieces: Iterable[str]) -> tuple[str, list[ToolCallDelta]]:
    reader = CallReader(calling, lambda: "id")
    found = [*map(reader.push, pieces), reader.flush()]
    return "".join(said for said, _ in found), [each for _, deltas in found for each in deltas]


CLOSING = [(name, form.closes[0]) for name, form in FORMATS.items() if form.closes]
JUNK = st.text('}]{["\\:,a <', max_size=12)


@given(
    st.sampled_from(CLOSING), st.integers(1, 24), JUNK, st.text("ab <>/}{", max_size=12),
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
)  # fmt: skip
@settings(max_examples=600, deadline=None, derandomize=True, database=None)
def test_however_a_call_is_damaged_its_closing_tag_is_not_shown(
    closing: tuple[str, str], left: int, junk: str, behind: str, sizes: list[int]
) -> None:
    """Behind a call's name anything may be missing, and anything may stand; pieces make no
    difference, and what follows the tag is text."""
    name, tag = closing
    form = FORMATS[name]
    whole = form.head + form.begin + "get_time" + form.middle + '{"city": ["Paris", {"a": 1}]}'
    kept = max(len(whole) - left, len(whole) - 28)
    text = f"{whole[:kept]}{junk}{tag}{behind}"
    calling = Calling(name, TOOLS)
    said, deltas = read_all(calling, text)
    cuts = itertools.accumulate(itertools.cycle(sizes))
    places = [0, *itertools.takewhile(lambda at: at < len(text), cuts), len(text)]
    pieces = in_pieces(calling, [text[a:b] for a, b in itertools.pairwise(places)])
    assert pieces[0] == said
    calls = [call.function for call in joined(deltas)]
    assert [call.function for call in joined(pieces[1])] == calls
    assert [call.name for call in calls] == ["get_time"]
    assert tag not in said
    assert said.rstrip().endswith(behind.strip()) or tag in calls[0].arguments


@pytest.mark.parametrize(("name", "tag"), CLOSING)
def test_a_broken_call_whose_closing_tag_never_comes_holds_back_little(name: str, tag: str) -> None:
    form = FORMATS[name]
    text = form.head + form.begin + "get_time" + form.middle + '{"a": 1]'
    reader = CallReader(Calling(name, TOOLS), lambda: "id")
    shown = reader.push(text)[0]
    more = " and on and on" * 40
    for word in more.split(" "):
        shown += reader.push(" " + word)[0]
    assert len(shown) > len(more) - 20
    assert reader.push(f"{tag}So.")[0].endswith("So.")


@pytest.mark.parametrize(("form", "text"), TEXTS)
def test_what_is_no_call_stays_text(form: str, text: str) -> None:
    calling = Calling(form, TOOLS)
    assert read_all(calling, text) == (text, [])
    for seed in range(50):
        assert cut(calling, text, seed) == (text, [])


JSON_ANSWERS = [
    ("llama3", '{"name":"get_time","colour":"red"}'),
    ("llama3", '{"name": "get_time"}'),
    ("llama3", '{"name": "get_time", "arguments": 5}'),
    ("llama3", '{"name": "get_time", "arguments": {}}'),
    ("llama3", '{"name": "get_time", "arguments": {"city": "Paris"}, "parameters": {}}'),
    ("llama3", '{"name": "get_time", "parameters": {}, "note": ""}'),
    ("llama3", '{"name": "get_time", "parameters": {"a": 1}, "parameters": {}}'),
    ("llama3", '{"id": 1, "name": "get_time", "parameters": {}}'),
    ("llama3", '{"name": "get_time", "parameters": "none"}'),
    ("llama3", '{"name": "get_time", "parameters": "{}"}'),
    ("llama3", '{"name": "get_time", "parameters": null}'),
    ("llama3", '{"name": "get_time", "parameters": {"a": 1}'),  # cut
    ("llama3", '{"name":"get_time","parameters":{}}'),
    ("llama3", '{"name": "launch", "parameters": {}}'),
    ("llama3", '{"na'),
    ("llama3", '[{"name": "get_time", "parameters": {}}]'),
    ("mistral-args", '{"note":"say [TOOL_CALLS]get_time{}"}'),
    ("mistral", '{"note":"[TOOL_CALLS] [{\\"name\\": \\"get_time\\"}]"}'),
    ("mistral", '"[TOOL_CALLS]get_time{}"'),
    ("hermes", '{"a": "<tool_call>{", "name": "get_time", "arguments": {}}'),
    ("hermes", '{"name": "get_time", "arguments": {}}'),
    ("phi4-mini", "false"),
    ("edgekit", "[1, 2]"),
]


def either(form: str) -> Calling:
    """Where the answer is JSON of a schema, or calls."""
    return Calling(form, TOOLS, free=False, bound=True, json=True)


@pytest.mark.parametrize(("form", "text"), JSON_ANSWERS)
def test_json_of_a_schema_is_no_call(form: str, text: str) -> None:
    for pieces in every_cut(either(form), text):
        assert pieces == (text, [])


def test_json_of_a_schema_is_told_as_it_comes_once_it_can_be_no_call() -> None:
    reader = CallReader(either("llama3"), lambda: "id")
    said = [reader.push(part)[0] for part in ('{"name', '": "Ann', '", "age": ', "7}")]
    assert said == ["", '{"name": "Ann', '", "age": ', "7}"]


@pytest.mark.parametrize("form", FORMATS)
def test_where_json_is_the_other_way_calls_are_found_at_the_beginning(form: str) -> None:
    calls: list[Call] = [("get_time", {}), ("get_weather", {"city": 'é "{<', "of": [1, {}]})]
    calls = calls if FORMATS[form].many else calls[1:]
    texts = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    text = written(FORMATS[form], texts)
    for said, deltas in every_cut(either(form), text):
        assert (said, found(deltas)) == ("", calls)


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_table_writes_is_read_again(form: str) -> None:
    calls: list[Call] = [("get_time", {}), ("get_weather", {"city": 'é "{<', "of": [1, {}]})]
    calls = calls if FORMATS[form].many else calls[1:]
    texts = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    said, deltas = read_all(Calling(form, TOOLS), written(FORMATS[form], texts))
    assert (said, found(deltas)) == ("", calls)


def test_the_name_comes_first_and_arguments_as_they_are_written() -> None:
    reader = CallReader(Calling("hermes", TOOLS), lambda: "a1b2c3d4e")
    assert reader.push('<tool_call>\n{"name": "get_wea') == ("", [])
    _, (first,) = reader.push('ther"')
    assert (first.index, first.id, first.type) == (0, "a1b2c3d4e", "function")
    assert (first.function.name, first.function.arguments) == ("get_weather", "")
    assert reader.push(', "arguments": ') == ("", [])
    _, (second,) = reader.push('{"city": "Pa')
    assert (second.index, second.function.arguments) == (0, '{"city": "Pa')
    _, (third,) = reader.push('ris"}}')
    assert third.function.arguments == 'ris"}'


def test_a_call_that_is_cut_off_stays_a_call() -> None:
    said, deltas = read_all(
        Calling("hermes", TOOLS), '<tool_call>{"name": "get_time", "arguments": {"a'
    )
    assert said == ""
    assert [call.function.arguments for call in joined(deltas)] == ['{"a']


@pytest.mark.parametrize(("form", "single"), [("hermes", True), ("llama3", False)])
def test_an_answer_ends_with_its_only_call(form: str, single: bool) -> None:
    text = written(FORMATS[form], [("get_time", "{}")])
    reader = CallReader(Calling(form, TOOLS, single=single), lambda: "id")
    ended = [reader.push(character) and reader.ended for character in text]
    assert ended[-1] or form == "hermes"
    assert reader.ended
    assert reader.push(" and more") == ("", [])
    assert reader.flush() == ("", [])


def test_nothing_makes_the_reader_fail() -> None:
    draw = random.Random(5)
    parts = [
        *'{}[]",:;\\ \nae5',
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        '"name": "get_time"',
    ]
    parts += [
        '"arguments": {',
        "<|python_tag|>",
        "<start_function_call>",
        "call:get_time{",
        "<escape>",
    ]
    parts += ["functools", "<|tool_call|>", "[ARGS]", "get_time"]
    for form in FORMATS:
        for seed in range(300):
            text = "".join(draw.choices(parts, k=draw.randint(1, 25)))
            free, bound, either = (draw.choice((False, True)) for _ in range(3))
            calling = Calling(form, TOOLS, free=free, bound=bound, json=bound and either)
            whole = read_all(calling, text)
            pieces = cut(calling, text, seed)
            assert pieces[0] == whole[0], text
            assert [c.function for c in joined(pieces[1])] == [c.function for c in joined(whole[1])]

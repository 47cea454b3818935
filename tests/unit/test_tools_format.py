"""How a model is told of tools and calls them, as `pack` finds it out of its chat template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle.chat import check_chat
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.tools.formats import FORMATS, OURS, ToolFormat
from edgekit.core.chat.tools.prompt import calling, told
from edgekit.tokens.calling import tool_format
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from tests.models.chat_templates import CHATML, TEMPLATES
from tests.models.tokenizer_kinds import make_tokenizer
from tests.models.tool_templates import FAMILY_TAGS, TEXT_TAGS, TOOL_TEMPLATES, XML

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says <b>how</b> it is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
SHOWN = {**TOOL, "function": {k: v for k, v in TOOL["function"].items() if k != "strict"}}  # type: ignore[attr-defined]  # tests alone
USER = {"role": "user", "content": "How is it in Paris?"}
CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": CALL}],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "21 degrees"}
FOUND = {
    "hermes": ("hermes", "template", "object"),
    "llama3": ("llama3", "template", "object"),
    "mistral": ("mistral", "template", "object"),
    "mistral-args": ("mistral-args", "template", "object"),
    "phi4-mini": ("phi4-mini", "field", "none"),
    "granite": ("granite", "template", "none"),
    "functiongemma": ("functiongemma", "template", "object"),
    "pythonic": (OURS, "system", "none"),
}


def opened(name: str, folder: Path, template: str = "") -> ChatTokenizer:
    """A tokenizer that knows the tags of the family."""
    text = template or TOOL_TEMPLATES[name]
    return open_tokenizer(
        make_tokenizer("byte-bpe", folder, text, FAMILY_TAGS.get(name, ()), TEXT_TAGS)
    )


def parsed(*messages: dict[str, Any], **more: Any) -> Any:
    body = {"messages": list(messages) or [USER], "tools": [TOOL], **more}
    return parse_body(json.dumps(body).encode())


@pytest.mark.parametrize("name", TOOL_TEMPLATES)
def test_a_family_is_known_by_what_its_template_writes(name: str, tmp_path: Path) -> None:
    tokenizer = opened(name, tmp_path)
    how = tool_format(tokenizer)
    assert (how.name, how.told, how.calls) == FOUND[name]
    known = {*FAMILY_TAGS.get(name, ()), *TEXT_TAGS}
    assert set(how.tokens) == set(FORMATS[how.name].tags) & known
    for tag, token in how.tokens.items():
        assert tokenizer.encode(tag) == [token]


def test_a_tag_of_a_format_is_not_the_format(tmp_path: Path) -> None:
    """Calls came as text: the template asked for XML, and JSON was read."""
    how = tool_format(opened("xml", tmp_path, XML))
    assert (how.name, how.told, how.calls) == (OURS, "system", "none")
    (system, *_), tools = told(parsed(), how)
    assert tools == []
    assert isinstance(system, tuple)
    assert "get_weather" in str(system[1])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_without_tools_gets_a_format_of_ours(name: str, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_tokenizer("byte-bpe", tmp_path, TEMPLATES[name]))
    how = tool_format(tokenizer)
    if how.name == OURS:
        assert how.calls == "none"
        assert how.told == ("user" if "No system" in TEMPLATES[name] else how.told)
    else:
        assert how.told in {"template", "field"}


def test_pack_records_it(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, TOOL_TEMPLATES["granite"], FAMILY_TAGS["granite"])
    record = check_chat(folder).tools
    assert record == tool_format(open_tokenizer(folder))
    assert list(record.tokens) == ["<|tool_call|>"]


def test_arguments_go_in_as_the_template_takes_them(tmp_path: Path) -> None:
    wanted = "{{ '<tool_call>' + '{\"name\": \"' + c.function.name + '\", \"arguments\": ' + "
    template = (
        "{% for m in messages %}{{ m.role + ':' + m.content }}{% for c in m.tool_calls or [] %}"
        + wanted
        + "c.function.arguments + '}</tool_call>' }}{% endfor %}{% endfor %}{{ tools|tojson }}"
    )
    how = tool_format(opened("hermes", tmp_path, template))
    assert (how.name, how.calls, how.null) == (OURS, "text", False)
    (_, called, _), _ = told(parsed(USER, CALLED, RESULT), how)
    assert isinstance(called, dict)
    assert called["content"] == ""
    assert called["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'


def test_the_template_gets_what_transformers_gives_it() -> None:
    how = ToolFormat("hermes", told="template", calls="object")
    messages, tools = told(parsed(USER, CALLED, RESULT), how)
    assert tools == [SHOWN]
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert messages == [
        ("user", "How is it in Paris?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
        },
        {
            "role": "tool",
            "content": "21 degrees",
            "name": "get_weather",
            "tool_call_id": "abcdefghi",
        },
    ]


def test_results_go_in_in_the_order_of_their_calls_with_the_names_of_their_functions(
    tmp_path: Path,
) -> None:
    def calls(*names: str) -> dict[str, Any]:
        made = [
            {"id": f"call0000{name}", "type": "function", "function": {**CALL, "name": name}}
            for name in names
        ]
        return {**CALLED, "tool_calls": made}

    def results(*names: str) -> list[dict[str, Any]]:
        return [
            {"role": "tool", "tool_call_id": f"call0000{name}", "content": f"of {name}"}
            for name in names
        ]

    chat = [USER, calls("a", "b"), *results("b", "a"), USER]
    chat += [calls("b", "a", "c"), *results("c", "a"), *results("b")]  # ids may come again
    written = {}
    for name in ("hermes", "functiongemma", "phi4-mini"):
        folder = tmp_path / name
        folder.mkdir()
        tokenizer = opened(name, folder)
        written[name] = tokenizer.render(*told(parsed(*chat), tool_format(tokenizer)))
    for text in written.values():  # two of these formats write no id and no name
        assert re.findall(r"of (\w)", text) == list("abbac")
    said = re.findall(r"response:(\w){value:<escape>of (\w)<", written["functiongemma"])
    assert said == [(name, name) for name in "abbac"]


def test_a_name_that_a_result_says_itself_stays() -> None:
    how = ToolFormat("hermes", told="template", calls="object")
    messages, _ = told(parsed(USER, CALLED, {**RESULT, "name": "weather_now"}), how)
    assert messages[-1]["name"] == "weather_now"  # type: ignore[call-overload]  # plain JSON


def test_tools_stand_in_the_field_of_the_system_message() -> None:
    how = ToolFormat("phi4-mini", told="field")
    (system, user), tools = told(parsed({"role": "system", "content": "Be brief."}, USER), how)
    assert isinstance(system, dict)
    assert (system["content"], json.loads(system["tools"])) == ("Be brief.", [SHOWN["function"]])
    assert user == ("user", "How is it in Paris?")
    assert not tools


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_model_that_knows_no_tools_is_told_in_words_of_ours(role: Any) -> None:
    how = ToolFormat(OURS, told=role)
    (first, *_), tools = told(parsed(), how)
    assert first[0] == role  # type: ignore[index]  # plain JSON
    assert '"name": "get_weather"' in first[1]  # type: ignore[index]  # plain JSON
    assert "<tool_call>" in first[1]  # type: ignore[index]  # plain JSON
    assert not tools


def test_calls_and_results_become_texts_where_the_template_knows_none() -> None:
    first, second = CALLED["tool_calls"][0], "123456789"
    both = {**CALLED, "tool_calls": [first, {**first, "id": second}]}
    results = [RESULT, {**RESULT, "tool_call_id": second}]
    messages, _ = told(parsed(USER, both, *results), ToolFormat(OURS))
    assert [each[0] if isinstance(each, tuple) else each["role"] for each in messages] == [
        *("system", "user", "assistant", "user"),
    ]
    call = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
    assert messages[2]["content"] == f"{call}\n{call}"  # type: ignore[call-overload]  # plain JSON
    result = "<tool_response>\n21 degrees\n</tool_response>"
    assert messages[3] == ("user", f"{result}\n{result}")


def test_with_the_choice_none_the_model_is_not_told() -> None:
    request = parsed(tool_choice="none")
    assert told(request, ToolFormat()) == ([("user", "How is it in Paris?")], [])
    assert calling(request, ToolFormat()) is None


def test_transformers_template_for_tools_is_taken_where_there_is_one(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, None, (), TEXT_TAGS)
    (folder / "chat_template.jinja").write_text(CHATML, "utf-8")
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text(TOOL_TEMPLATES["hermes"], "utf-8")
    tokenizer = open_tokenizer(folder)
    assert "<tools>" not in tokenizer.render([("user", "Hi")])
    assert "<tools>" in tokenizer.render([("user", "Hi")], [SHOWN])
    assert tool_format(tokenizer).name == "hermes"
    assert "<tool_call>" in tokenizer.control  # the template for tools writes it

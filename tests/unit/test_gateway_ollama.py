"""Ollama's bodies as they reach a device, and a device's replies as Ollama's lines."""

from __future__ import annotations

import copy
import json
from typing import Any

import ollama
import pytest

from edgekit.gateway.chunks import Chunks
from edgekit.gateway.ollama import lines, request
from edgekit.gateway.refusals import HttpError, of_code

HELLO = [{"role": "user", "content": "Hi"}]
PNG, JPEG = "iVBORw0KGgoAAAANSUhEUg==", "/9j/4AAQSkZJRg=="


def read(**more: Any) -> Any:
    body = json.dumps({"model": "toy", "messages": HELLO, **more}).encode()
    return json.loads(request.read(body).payload("toy"))


def test_a_body_becomes_openai_s() -> None:
    options = {"temperature": 0, "num_predict": 5, "repeat_penalty": 1.2, "stop": ["x"], "seed": 3}
    told = read(options=options, format="json", think=True, logprobs=True, top_logprobs=2)
    assert told == {
        "model": "toy",
        "messages": HELLO,
        "stream": True,  # unlike OpenAI's
        "temperature": 0,
        "max_tokens": 5,
        "repetition_penalty": 1.2,
        "stop": ["x"],
        "seed": 3,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "medium",
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_a_schema_is_a_format_and_thinking_is_turned_off() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    told = read(format=schema, think=False, stream=False)
    assert told["response_format"]["json_schema"]["schema"] == schema
    assert (told["reasoning_effort"], told["stream"]) == ("none", False)
    assert read(think="high")["reasoning_effort"] == "high"
    assert "response_format" not in read(format="")


def test_what_ollama_means_by_none_is_absent_and_its_machine_is_not_the_device_s() -> None:
    silent = {
        "num_predict": -1, "seed": -1, "stop": [], "num_ctx": 8192, "num_gpu": 1, "mirostat": 0,
        "mirostat_tau": 5.0, "typical_p": 1.0, "repeat_last_n": -1, "top_k": None,
    }  # fmt: skip
    told = read(options=silent, keep_alive="5m", tools=[], template=None)
    assert told == {"model": "toy", "messages": HELLO, "stream": True}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"template": "x"}, "template"),
        ({"format": "yaml"}, "format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "7"}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": "", "images": ["UklGRg=="]}]},
            "messages[0].images[0]",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    with pytest.raises(HttpError) as refused:
        read(**more)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in json.loads(lines.refusal(refused.value))["error"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b'{"model":"x"}',
        b'{"model":"x","messages":[{"role":"user","contents":"y"}]}',
        b'{"model":"x","model":"y","messages":[{"role":"user","content":"y"}]}',
        b'{"model":"x","messages":[{"role":"user","content":"y"}],"options":7}',
        b'{"model":"x","messages":' + b"[" * 100_000,
    ],
)
def test_a_body_that_cannot_be_read_is_refused(sent: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        request.read(sent)
    assert refused.value.status == 400
    assert isinstance(json.loads(lines.refusal(refused.value))["error"], str)


def test_a_tag_is_no_part_of_a_model_s_name() -> None:
    body = json.dumps({"model": "toy:latest", "messages": HELLO}).encode()
    assert request.read(body).model == "toy"
    assert request.read(body.replace(b"toy", b"pool")).model == "pool:latest"
    assert request.read(body.replace(b"toy:latest", b"pool:p")).model == "pool:p"


def test_pictures_become_parts() -> None:
    (told,) = read(messages=[{"role": "user", "content": "?", "images": [PNG, JPEG]}])["messages"]
    assert [part.get("image_url", {}).get("url") for part in told["content"]] == [
        *(f"data:image/png;base64,{PNG}", f"data:image/jpeg;base64,{JPEG}", None)
    ]
    assert told["content"][2] == {"type": "text", "text": "?"}


def test_a_result_is_of_the_last_calls() -> None:
    def called(name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": {}}
        return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}

    result = {"role": "tool", "content": "of b"}
    first, _, last, of = read(messages=[called("a"), *HELLO, called("b"), result])["messages"]
    assert of["tool_call_id"] == last["tool_calls"][0]["id"] != first["tool_calls"][0]["id"]


def test_nothing_of_a_message_gets_lost() -> None:
    """What has no place there, a device refuses by its name."""
    calls = [{"function": {"name": "look", "arguments": {}}}]
    _, _, called, said = read(
        messages=[
            *HELLO,
            *HELLO,
            {"role": "assistant", "content": "", "images": [PNG], "tool_calls": calls},
            {"role": "user", "content": "?", "tool_call_id": "abcdefghi"},
        ]
    )["messages"]
    assert called["content"][0]["type"] == "image_url"
    assert said["tool_call_id"] == "abcdefghi"


def test_results_find_their_calls() -> None:
    def call(name: str, **more: str) -> dict[str, Any]:
        return {"function": {"index": 0, "name": name, "arguments": {"at": 1}}, **more}

    told = read(
        messages=[
            *HELLO,
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                call("a"), call("b"), call("c", id="abcdefghi"), call("d")]},
            {"role": "tool", "content": "of b", "tool_name": "b"},
            {"role": "tool", "content": "of a"},
            {"role": "tool", "content": "of d", "tool_name": "d"},
            {"role": "tool", "content": "of c", "tool_call_id": "abcdefghi"},
        ]
    )["messages"]  # fmt: skip
    assert told[1]["reasoning_content"] == "hm"
    assert told[1]["content"] is None
    names = {each["id"]: each["function"]["name"] for each in told[1]["tool_calls"]}
    assert [names[each["tool_call_id"]] for each in told[2:]] == ["b", "a", "d", "c"]
    assert all(len(each) == 9 and each.isalnum() for each in names)
    assert json.loads(told[1]["tool_calls"][0]["function"]["arguments"]) == {"at": 1}


# --- answers ------------------------------------------------------------------------------------
def completion(message: dict[str, Any], reason: str = "stop") -> dict[str, Any]:
    return {
        "id": "chatcmpl-p",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "timings": {"queue_ms": 1.0, "prompt_ms": 2.5, "predicted_ms": 10.0},
    }


def delta(seq: int, **told: Any) -> dict[str, Any]:
    return {"seq": seq, "choices": [{"index": 0, "delta": told}]}


def chat_lines(text: bytes) -> list[ollama.ChatResponse]:
    return [ollama.ChatResponse(**json.loads(line)) for line in text.splitlines()]


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    return {"id": "abcdefghi", "type": "function", "function": function}


@pytest.mark.parametrize("lost", [None, 0, 1, 2, 3])
def test_a_lost_delta_costs_neither_text_nor_thought_nor_call(lost: int | None) -> None:
    pieces: list[dict[str, Any]] = [
        {"reasoning_content": "h"},
        {"reasoning_content": "m", "content": "A"},
        {"content": "B"},
        {"tool_calls": [{"index": 0, **call('{"a":')}]},
    ]
    made = lines.Lines("toy", 7.5)
    text = made.begin("other")
    for seq, piece in enumerate(pieces):
        text += made.delta(delta(seq, **piece)) if seq != lost else b""
    message = {"content": "AB", "reasoning_content": "hm", "tool_calls": [call('{"a":1}')]}
    told = chat_lines(text + made.final(completion(message, "tool_calls")))
    assert "".join(each.message.content or "" for each in told) == "AB"
    assert "".join(each.message.thinking or "" for each in told) == "hm"
    calls = [one for each in told for one in each.message.tool_calls or ()]
    assert [(one.function.name, one.function.arguments) for one in calls] == [("look", {"a": 1})]
    assert [each.done for each in told] == [False] * (len(told) - 1) + [True]
    last = told[-1]
    assert (last.done_reason, last.prompt_eval_count, last.eval_count) == ("stop", 1, 2)
    assert (last.total_duration, last.eval_duration) == (13_500_000, 10_000_000)
    assert {(each.model, each.created_at) for each in told} == {
        ("toy", "1970-01-01T00:00:07.500000Z")
    }


def with_logprobs(choice: dict[str, Any], *tokens: str) -> dict[str, Any]:
    one: dict[str, Any] = {"logprob": -1.0, "bytes": None, "top_logprobs": []}
    return choice | {"logprobs": {"content": [one | {"token": token} for token in tokens]}}


@pytest.mark.parametrize("lost", [None, 0, 1, 2])
@pytest.mark.parametrize("reason", ["tool_calls", "length"])
def test_the_tokens_of_a_call_keep_their_log_probabilities(lost: int | None, reason: str) -> None:
    deltas = [
        delta(0, content="A"),
        delta(1, tool_calls=[{"index": 0, **call("{")}]),
        delta(2, tool_calls=[{"index": 0, "function": {"arguments": "}"}}]),
    ]
    for body, token in zip(deltas, "A{}", strict=True):
        body["choices"] = [with_logprobs(body["choices"][0], token)]
    made = completion({"content": "A", "tool_calls": [call("{}")]}, reason)
    made["choices"] = [with_logprobs(made["choices"][0], *"A{}")]

    stream = lines.Lines("toy", 0)
    text = b"".join(stream.delta(copy.deepcopy(d)) for d in deltas if d["seq"] != lost)
    for told in (chat_lines(text + stream.final(made)), chat_lines(stream.whole(made))):
        assert [one.token for each in told for one in each.logprobs or ()] == list("A{}")

    chunks = Chunks("p", 0, usage=False, text=False)
    text = chunks.begin("toy")
    text += b"".join(chunks.delta(copy.deepcopy(d)) for d in deltas if d["seq"] != lost)
    events = [json.loads(one[6:]) for one in (text + chunks.final(made)).split(b"\n\n")[:-2]]
    given = [one["choices"][0]["logprobs"] or {"content": []} for one in events]
    assert [one["token"] for each in given for one in each["content"]] == list("A{}")


def test_a_whole_answer_is_one_object() -> None:
    message = {"content": None, "reasoning_content": "hm", "tool_calls": [call("{}")]}
    (told,) = chat_lines(lines.Lines("toy", 0).whole(completion(message, "tool_calls")))
    assert (told.message.content, told.message.thinking, told.done) == ("", "hm", True)
    assert told.message.tool_calls


def test_a_call_whose_arguments_are_no_object_is_an_error_and_a_cut_one_is_left_out() -> None:
    message = {"content": "A", "tool_calls": [call("{}"), call('{"a":')]}
    with pytest.raises(HttpError, match="look with arguments that are no JSON object"):
        lines.Lines("toy", 0).final(completion(message, "tool_calls"))
    (told,) = chat_lines(lines.Lines("toy", 0).whole(completion(message, "length")))
    assert (len(told.message.tool_calls or ()), told.done_reason) == (1, "length")


@pytest.mark.parametrize("reason", ["tool_calls", "length"])
def test_a_call_with_an_argument_twice_is_an_error(reason: str) -> None:
    """As an object it would have one of the two, and nobody would know."""
    with pytest.raises(HttpError, match="look with arguments of which the key 'a' comes twice"):
        lines.Lines("toy", 0).whole(completion({"tool_calls": [call('{"a":1,"a":2}')]}, reason))


def test_an_error_names_its_field() -> None:
    error = of_code("invalid_request", "Expected `float` <= 2", "temperature")
    assert json.loads(lines.refusal(error)) == {"error": "temperature: Expected `float` <= 2"}
    assert chat_lines(lines.Lines("toy", 0).waiting)[0].message.content == ""


def test_the_list_of_models_is_one_that_ollama_s_client_reads() -> None:
    told = ollama.ListResponse(**lines.tags(["toy", "pool:p"]))
    assert [each.model for each in told.models] == ["toy", "pool:p"]

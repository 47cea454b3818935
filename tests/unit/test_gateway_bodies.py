"""API keys as a file, bodies as they reach a device, and deltas as chunks."""

from __future__ import annotations

import datetime
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.protocol import wire
from edgekit.errors import UsageError
from edgekit.gateway import body, keys
from edgekit.gateway.chunks import Chunks, text_completion
from edgekit.gateway.ollama import request as ollama
from edgekit.gateway.refusals import HttpError, of_device

TODAY = datetime.date(2026, 1, 1)


def test_the_file_has_hashes_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.json"
    first, second = keys.add(file, "alice", TODAY), keys.add(file, "bob", TODAY)
    assert file.stat().st_mode & 0o777 == 0o600
    assert first not in file.read_text()
    assert len(first) > 40
    ring = keys.KeyRing(file)
    assert (ring.requester_of(first), ring.requester_of(second)) == ("alice", "bob")
    for wrong in ("", "ek-", first[:-1], first + "x", "x" * 100_000, "\ud800"):
        assert ring.requester_of(wrong) == ""
    third = keys.add(file, "alice", TODAY)
    assert ring.requester_of(third) == "alice"  # no restart
    assert [key.requester for key in keys.revoke(file, "alice")] == ["alice", "alice"]
    assert [ring.requester_of(key) for key in (first, second, third)] == ["", "bob", ""]


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0, "no API keys"),
        ('{"keys":[]}', 0o644, "others can read"),
        ('{"keys":[{"requester":1}]}', 0o600, "not a file of API keys"),
        ("{", 0o600, "not a file of API keys"),
        ('{"keys":[{"requester":"a","sha256":"%s","added":""}]}' % ("\u00e9" * 64), 0o600, "not a"),
        ('{"keys":[{"requester":"a","sha256":"%s","added":""}]}' % ("AB" * 32), 0o600, "not a"),
        ('{"keys":[{"requester":"a/#","sha256":"%s","added":""}]}' % ("ab" * 32), 0o600, "not a"),
        ("a folder", 0, "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_refused(
    tmp_path: Path, content: str | None, mode: int, why: str
) -> None:
    file = tmp_path / "keys.json"
    if content == "a folder":
        file.mkdir()
    elif content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(UsageError, match=why):
        keys.KeyRing(file)


def test_keys_that_are_added_at_once_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    keys.add(file, "first", TODAY)
    load = keys.load

    def slow(path: Path) -> tuple[keys.ApiKey, ...]:
        found = load(path)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(keys, "load", slow)
    names = [f"r{n}" for n in range(4)]
    with ThreadPoolExecutor(5) as pool:
        revoked = pool.submit(keys.revoke, file, "first")
        list(pool.map(lambda name: keys.add(file, name, TODAY), names))
        assert [key.requester for key in revoked.result()] == ["first"]
    assert sorted(key.requester for key in load(file)) == names


def test_a_file_that_others_may_read_from_now_on_is_refused_while_it_is_in_use(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.json"
    key = keys.add(file, "alice", TODAY)
    ring = keys.KeyRing(file)
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        ring.requester_of(key)
    file.chmod(0o600)
    assert ring.requester_of(key) == "alice"


def test_a_requester_s_name_and_a_key_to_revoke_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be a requester's name"):
        keys.add(tmp_path / "keys.json", "a/b", TODAY)
    keys.add(tmp_path / "keys.json", "alice", TODAY)
    with pytest.raises(UsageError, match="no key has"):
        keys.revoke(tmp_path / "keys.json", "bob")


def test_a_device_gets_the_body_as_it_came_but_for_model_and_stream() -> None:
    sent = (
        b'{"model":"pool:k","messages":[{"role":"user","content":"\\u0041"}],"temperature":1.0,'
        b'"new_field":{"b":1,"a":[1e5]}}'
    )
    asked = body.read(sent)
    got = asked.payload("toy")
    assert json.loads(got) == json.loads(sent) | {"model": "toy", "stream": False}
    assert b'{"b":1,"a":[1e5]}' in got  # to the byte
    assert b'[{"role":"user","content":"\\u0041"}]' in got
    assert asked.payload("toy") == body.read(sent).payload("toy")  # an ek-id needs equal bytes


def test_a_text_completion_has_no_tools_whose_call_it_could_not_say() -> None:
    """The device called one, and the client got a text that was null."""
    sent = {"model": "x", "prompt": "y", "tools": [{"type": "function", "function": {"name": "f"}}]}
    with pytest.raises(HttpError) as refused:
        body.read(json.dumps(sent).encode(), text=True)
    told = json.loads(refused.value.body)["error"]
    assert (told["code"], told["param"]) == ("unsupported_parameter", "tools")
    body.read(json.dumps(sent | {"tools": []}).encode(), text=True)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"messages":[{}]}',
        b'{"model":7,"messages":[{}]}',
        b'{"model":"x"}',
        b'{"model":"x","messages":[]}',
        b'{"model":"x","messages":"y"}',
        b'{"model":"x","model":"y","messages":[{}]}',
        b'{"model":"x","messages":[{"role":"a","role":"b"}]}',
        b'{"model":"x","stream":"yes","messages":[{}]}',
        b'{"model":"x","messages":' + b"[" * 100_000,
    ],
)
def test_a_body_that_cannot_be_read_is_refused(sent: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        body.read(sent)
    assert refused.value.status == 400
    assert json.loads(refused.value.body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "more", ['"suffix":"x"', '"echo":true', '"best_of":2', '"logprobs":3', '"messages":[]']
)
def test_what_only_a_text_model_could_do_is_refused_by_name(more: str) -> None:
    with pytest.raises(HttpError) as refused:
        body.read(f'{{"model":"x","prompt":"y",{more}}}'.encode(), text=True)
    assert refused.value.param == more.partition(":")[0].strip('"')


def test_headers_are_read_within_bounds() -> None:
    assert body.read_id("a" * 128) == "a" * 128
    assert body.read_deadline("60", 3600) == 60
    for wrong in ("", "a" * 129, "a\tb", "é"):
        with pytest.raises(HttpError):
            body.read_id(wrong)
    for wrong in ("0", "3601", "-1", "1.5", "x", "9" * 5000, "²", "000060" + "0" * 5000):
        with pytest.raises(HttpError):
            body.read_deadline(wrong, 3600)


def completion(message: dict[str, Any], reason: str = "stop") -> dict[str, Any]:
    return {
        "id": "chatcmpl-p",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def delta(seq: int, **told: Any) -> dict[str, Any]:
    return {"seq": seq, "choices": [{"index": 0, "delta": told}]}


def read(events: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in events.split(b"\n\n") if line]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


def chunks(*, usage: bool = False, text: bool = False) -> Chunks:
    made = Chunks("p", 7, usage=usage, text=text)
    made.begin("toy")
    return made


def deltas_of(events: list[Any]) -> list[Any]:
    return [each["choices"][0]["delta"] for each in events if each != b"[DONE]" and each["choices"]]


@pytest.mark.parametrize("lost", [None, 0, 1, 2])
def test_a_lost_delta_costs_no_text(lost: int | None) -> None:
    made = chunks()
    events = made.begin("toy")
    for seq, piece in enumerate(("A", "B", "C")):
        if seq != lost:
            events += made.delta(delta(seq, content=piece))
    events += made.final(completion({"role": "assistant", "content": "ABC"}))
    told = read(events)
    assert told[-1] == b"[DONE]"
    assert "".join(each.get("content") or "" for each in deltas_of(told)) == "ABC"
    assert told[-2]["choices"][0]["finish_reason"] == "stop"


def test_another_answer_than_the_one_that_was_shown_is_an_error() -> None:
    made = chunks()
    made.delta(delta(0, content="A"))
    with pytest.raises(HttpError, match="begin anew"):
        made.final(completion({"role": "assistant", "content": "BC"}))


@pytest.mark.parametrize(
    "shown",
    [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]},
    ],
)
@pytest.mark.parametrize(
    "message",
    [
        {"content": "B"},
        {"content": "B", "reasoning_content": "ah"},
        {"content": None, "tool_calls": [
            {"id": "d", "type": "function", "function": {"name": "g", "arguments": "{}"}}
        ]},
    ],
)  # fmt: skip
def test_what_was_shown_is_a_part_of_the_answer_in_each_field(
    shown: dict[str, Any], message: dict[str, Any]
) -> None:
    """A field that the final lacks was not looked at: the stream was of two answers."""
    made = chunks()
    made.delta(delta(0, **shown))
    with pytest.raises(HttpError, match="begin anew"):
        made.final(completion({"role": "assistant", **message}))


def test_other_fields_of_deltas_pass_and_come_at_the_end_where_they_did_not() -> None:
    made = chunks()
    first = read(made.delta(delta(0, reasoning_content="hm")))
    assert first[0]["choices"][0]["delta"] == {"reasoning_content": "hm"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [call],
    }
    last = read(made.final(completion(message, "tool_calls")))
    assert deltas_of(last) == [{"tool_calls": [{"index": 0, **call}]}, {}]
    assert last[1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("lost", [None, 0, 1, 2, 3, 4])
def test_a_lost_delta_costs_no_thought_no_argument_and_no_log_probability(lost: int | None) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    pieces: list[dict[str, Any]] = [
        {"reasoning_content": "h"},
        {"reasoning_content": "m", "content": "A"},
        {"tool_calls": [{"index": 0, **call, "function": {"name": "f", "arguments": '{"a'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    ]
    tokens = [{"token": str(n), "logprob": -0.1} for n in range(len(pieces))]
    made, events = chunks(), b""
    for seq, piece in enumerate(pieces):
        body = delta(seq, **piece)
        body["choices"][0]["logprobs"] = {"content": [tokens[seq]], "refusal": None}
        events += made.delta(body) if seq != lost else b""
    message = {"role": "assistant", "content": "A", "reasoning_content": "hm", "tool_calls": [call]}
    final = completion(message, "tool_calls")
    final["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    told = read(events + made.final(final))
    deltas = deltas_of(told)
    assert "".join(each.get("reasoning_content") or "" for each in deltas) == "hm"
    assert "".join(each.get("content") or "" for each in deltas) == "A"
    calls = [one for each in deltas for one in each.get("tool_calls") or []]
    assert "".join(one["function"]["arguments"] for one in calls) == '{"a":1}'
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("c", "f")
    shown = [each["choices"][0].get("logprobs") for each in told if each != b"[DONE]"]
    assert [one for each in shown if each for one in each["content"]] == tokens


def test_token_counts_come_last_and_only_if_they_are_asked_for() -> None:
    final = completion({"role": "assistant", "content": "A"})
    without = read(chunks().final(final))
    assert not any("usage" in each for each in without if each != b"[DONE]")
    told = read(chunks(usage=True).final(final))
    assert told[-2]["usage"] == final["usage"]
    assert told[-2]["choices"] == []
    assert all(each["usage"] is None for each in told[:-2])


def test_a_text_completion_has_text() -> None:
    made = chunks(text=True)
    assert made.begin("toy") == b""
    told = read(made.delta(delta(0, content="A")))[0]
    assert (told["object"], told["id"]) == ("text_completion", "cmpl-p")
    assert told["choices"][0]["text"] == "A"
    thinks = {"role": "assistant", "content": None, "reasoning_content": "Hm"}
    assert text_completion(completion(thinks, "length"))["choices"][0]["text"] == ""
    whole = text_completion(completion({"role": "assistant", "content": "A"}))
    assert (whole["id"], whole["choices"][0]["text"]) == ("cmpl-p", "A")


@pytest.mark.parametrize("code", list(wire.CODES))
def test_every_error_of_a_device_has_its_status_and_says_whether_to_try_again(code: str) -> None:
    status, retryable = wire.CODES[code]  # type: ignore[index]  # one of its keys
    retryable = retryable and code != "deadline_exceeded"  # with a new ek-id, says the protocol
    made = of_device(wire.ProtocolError(code, "what", "field", 1200))
    told = json.loads(made.body)["error"]
    assert (made.status, told["code"], told["param"]) == (status, code, "field")
    assert made.headers["x-should-retry"] == ("true" if retryable else "false")
    assert made.headers.get("retry-after") == ("2" if retryable else None)


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 5000])
def test_a_number_that_is_none_anywhere_else_is_refused_by_name(number: str) -> None:
    text = f'{{"model":"toy","prompt":"Hi","suffix":{number}}}'
    with pytest.raises(HttpError) as refused:
        body.read(text.encode(), text=True)
    assert (refused.value.status, refused.value.param) == (400, "suffix")
    text = f'{{"model":"toy","messages":[{{"role":"user"}}],"options":{{"temperature":{number}}}}}'
    with pytest.raises(HttpError) as refused:
        ollama.read(text.encode())
    assert (refused.value.status, refused.value.param) == (400, "options.temperature")
    text = f'{{"model":"toy","messages":[{{"role":"user"}}],"response_format":{number}}}'
    with pytest.raises(HttpError) as refused:
        _ = body.read(text.encode()).needs
    assert (refused.value.status, refused.value.param) == (400, "response_format")

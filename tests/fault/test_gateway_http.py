"""HTTP as the oddest clients speak it, and devices whose replies are none of the protocol's."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from edgekit.core.protocol import wire
from edgekit.gateway.keys import hashed
from tests import tools
from tests.fakes.simulated_device import Prompt, SimulatedDevice
from tests.harness.gateway import Gateway, gateway, wait_for_model, with_constants

pytestmark = pytest.mark.timeout(120)

CHAT = "/v1/chat/completions"
HELLO = {"model": "toy", "messages": [{"role": "user", "content": "say 3"}]}
BODY = json.dumps(HELLO).encode()


@pytest.fixture(scope="module")
def one(file_broker: tools.MosquittoBroker, served: Gateway) -> Iterator[SimulatedDevice]:
    with closing(SimulatedDevice(file_broker.port, "one")) as made:
        wait_for_model(served.client(), "toy")
        yield made


def head(served: Gateway, *lines: str, method: str = "POST", path: str = CHAT) -> bytes:
    told = ("Host: x", f"Authorization: Bearer {served.keys['alice']}", *lines)
    return "\r\n".join((f"{method} {path} HTTP/1.1", *told, "", "")).encode()


def answers(served: Gateway, sent: bytes, count: int = 1, then: bytes = b"") -> list[bytes]:
    """What comes back on one connection until it has so many answers with a Content-Length."""
    found: list[bytes] = []
    data = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as sock:
        sock.sendall(sent)
        while len(found) < count:
            while (end := data.find(b"\r\n\r\n")) < 0:
                piece = sock.recv(1 << 16)
                assert piece, (found, data)
                data += piece
            top = data[:end].lower()
            if top.startswith(b"http/1.1 100"):
                data = data[end + 4 :]
                found.append(top)
                sock.sendall(then)
                continue
            size = int(top.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(data) < end + 4 + size:
                data += sock.recv(1 << 16)
            found.append(data[: end + 4 + size])
            data = data[end + 4 + size :]
    return found


def sized(body: bytes = BODY) -> tuple[str, str]:
    return "Content-Type: application/json", f"Content-Length: {len(body)}"


@pytest.mark.usefixtures("one")
def test_a_body_in_pieces_one_that_waits_and_several_at_once_are_all_answered(
    served: Gateway,
) -> None:
    pieces = b"".join(b"1\r\n%c\r\n" % each for each in BODY) + b"0\r\n\r\n"
    kind = "Content-Type: application/json"
    (chunked,) = answers(served, head(served, kind, "Transfer-Encoding: chunked") + pieces)
    assert chunked.startswith(b"HTTP/1.1 200")
    waits = head(served, *sized(), "Expect: 100-continue")
    assert [x[9:12] for x in answers(served, waits, 2, BODY)] == [b"100", b"200"]
    many = (head(served, *sized()) + BODY) * 3 + head(served, method="GET", path="/v1/models")
    found = answers(served, many, 4)
    assert [each[9:12] for each in found] == [b"200"] * 4
    assert [b"w0 w1 w2" in each for each in found] == [True, True, True, False]


def test_a_body_that_is_packed_is_refused_by_name(served: Gateway) -> None:
    packed = gzip.compress(BODY)
    more = (*sized(packed), "Content-Encoding: gzip")
    (found,) = answers(served, head(served, *more) + packed)
    assert found.startswith(b"HTTP/1.1 415")
    assert b"Content-Encoding gzip" in found


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/v1/models", 200), ("HEAD", "/health", 200), ("OPTIONS", CHAT, 405),
        ("OPTIONS", "*", 404), ("GET", CHAT, 405), ("POST", "/v1/models", 405),
        ("GET", "/v1/models/toy", 200), ("GET", "/v1/models/device:one", 200),
        ("GET", "/v1/models/device%3Aone", 200), ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/gpt", 404), ("POST", f"{CHAT}/", 404), ("PATCH", "/api/chat", 405),
        ("GET", "/v1//models", 404), ("TRACE", "/", 405),
    ],
)  # fmt: skip
def test_methods_and_paths(served: Gateway, method: str, path: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as sock:
        sock.sendall(head(served, "Connection: close", method=method, path=path))
        told = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert told.startswith(b"HTTP/1.1 %d" % status), told
    if status != 200:
        body = told.partition(b"\r\n\r\n")[2]
        assert "error" in json.loads(body)
    assert b"Traceback" not in told


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize(
    ("path", "text", "param"),
    [
        (CHAT, '{"model":"toy","model":"toy","messages":[]}', None),
        (CHAT, '{"model":"toy","messages":[{"role":"user","content":"a","content":"b"}]}', None),
        (CHAT, '{"model":"toy","messages":[{"role":"user","content":1e400}]}', None),
        (CHAT, '{"model":"toy","messages":[],"response_format":1e400}', "messages"),
        ("/v1/completions", '{"model":"toy","prompt":"x","echo":1e400}', "echo"),
        ("/api/chat", '{"model":"toy","messages":[{"role":"user"}],"options":{"seed":1e400}}', ""),
        (CHAT, '{"model":"toy","messages":"\\ud800"}', None),
        (CHAT, "[" * 100_000, None),
        (CHAT, '{"model":7}', None),
        (CHAT, '{"model":"' + "x" * 500_000 + '","messages":[1]}', "model"),
        (CHAT, "NaN", None),
        (CHAT, "", None),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(
    served: Gateway, path: str, text: str, param: str | None
) -> None:
    headers = {
        "authorization": f"Bearer {served.keys['alice']}",
        "content-type": "application/json",
    }
    answer = httpx2.post(served.url + path, content=text.encode(), headers=headers)
    assert answer.status_code in (400, 404), answer.text[:200]
    assert len(answer.content) < 2000
    told = answer.json()["error"]
    if param == "":
        assert "options.seed" in told
    else:
        assert told["param"] == param


def test_ipv6(file_broker: tools.MosquittoBroker, one: SimulatedDevice, tmp_path: Path) -> None:
    with gateway(tmp_path, file_broker.port, "--host", "::1") as made:
        assert made.url.startswith("http://[::1]:")
        wait_for_model(made.client(), "toy")
        assert httpx2.get(f"{made.url}/health").json()["devices"] == 1


# --- keys -------------------------------------------------------------------------------------
def test_keys_that_are_being_edited_refuse_all_and_then_nobody(
    file_broker: tools.MosquittoBroker, one: SimulatedDevice, tmp_path: Path
) -> None:
    program = with_constants({"edgekit.gateway.page.events.COMMENT_SECONDS": 0.2})
    with gateway(tmp_path, file_broker.port, program=program) as made:
        wait_for_model(made.client(), one.model)
        headers = {"authorization": f"Bearer {made.keys['alice']}"}
        models, whole = f"{made.url}/v1/models", made.file.read_bytes()
        with httpx2.stream("GET", f"{made.url}/fleet/events", headers=headers) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: fleet"
            for broken in (whole[:20], b"", b"[]"):
                made.file.write_bytes(broken)
                answer = httpx2.get(models, headers=headers)
                assert answer.status_code == 503
                assert answer.headers["x-should-retry"] == "true"
                assert str(tmp_path) not in answer.text
            list(lines)  # who watches is sent away, and comes again
        made.file.unlink()
        assert httpx2.get(models, headers=headers).status_code == 503
        made.file.mkdir()
        assert httpx2.get(models, headers=headers).status_code == 503
        made.file.rmdir()
        made.file.write_bytes(whole)
        made.file.chmod(0o600)
        assert httpx2.get(models, headers=headers).status_code == 200
        made.file.write_bytes(whole.replace(hashed(made.keys["alice"]).encode(), b"0" * 64))
        assert httpx2.get(models, headers=headers).status_code == 401
        log = (tmp_path / "gateway.log").read_text()
        assert "Traceback" not in log
        assert "not a file of API keys" in log


# --- who can answer ---------------------------------------------------------------------------
def test_a_prompt_to_a_pool_goes_to_a_device_that_can_answer_it(
    served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    """The fastest device is not asked for what its card does not have."""
    images = wire.CardImages(1, 1, 1, 1, max_body_bytes=9, side=9, bytes=9)
    with ExitStack() as stack:

        def make(name: str, **card: Any) -> SimulatedDevice:
            made = SimulatedDevice(file_broker.port, name, model="m", pools=("mixed",), **card)
            return stack.enter_context(closing(made))

        fast, forms = make("a-fast"), make("b-forms", capabilities=("json_schema",))
        sees = make("c-sees", images=images)
        fast.say_state("ready", tok_s=99.0)
        client = served.client()
        wait_for_model(client, "device:c-sees")
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
        seen: Any = [{"role": "user", "content": [part]}]

        def says(text: str) -> Any:  # another one each time: who keeps a prefix is asked first
            return [{"role": "user", "content": text}]

        for n in range(2):
            client.chat.completions.create(model="pool:mixed", messages=seen)
            client.chat.completions.create(
                model="pool:mixed", messages=says(f"{n}"), response_format={"type": "json_object"}
            )
            client.chat.completions.create(model="pool:mixed", messages=says(f"plain {n}"))
        assert [len(each.computed) for each in (fast, forms, sees)] == [2, 2, 2]
        sees.say_state("offline")
        tools.eventually(lambda: "device:c-sees" not in {each.id for each in client.models.list()})
        with pytest.raises(openai.InternalServerError, match="c-sees is `offline`"):
            client.chat.completions.create(model="pool:mixed", messages=seen)


# --- what a device may say --------------------------------------------------------------------
class Babbling(SimulatedDevice):
    """A device that answers each prompt with these replies, `accepted` first."""

    replies: tuple[tuple[str, Any], ...] = ()

    def _run(self, prompt: Prompt) -> None:
        self._send(prompt, "accepted", b'{"position":0}')
        for kind, told in self.replies:
            self._send(prompt, kind, json.dumps(told).encode())


def delta(**choice: Any) -> tuple[str, Any]:
    return "delta", {"seq": 0, "choices": [{"index": 0, "delta": {}, **choice}]}


def final(message: Any = None, **more: Any) -> tuple[str, Any]:
    message = {"role": "assistant", "content": "x"} if message is None else message
    choice = {"index": 0, "message": message, "finish_reason": "stop"} | more.pop("choice", {})
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return "final", {"id": "chatcmpl-1", "choices": [choice], "usage": usage, **more}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WAITS: tuple[Any, ...] = ("x", -5, 1e300, 10**30, True, [])
ODD = [
    [delta(delta={"tool_calls": 5}), final()],
    [delta(delta={"tool_calls": [{}]}), final()],
    [delta(delta={"tool_calls": [{"index": 0, "function": 7}]}), final()],
    [delta(logprobs=7), final()],
    [delta(delta=7), final()],
    [("delta", []), final()],
    [("delta", {"seq": 0}), final()],
    [("final", {})],
    [("final", [])],
    [final(7)],
    [final({"tool_calls": 7})],
    [final({"tool_calls": [7]})],
    [final({"tool_calls": [{}]})],
    [final({"tool_calls": [CALL | {"function": {"name": "f", "arguments": 7}}]})],
    [final(choice={"logprobs": 7})],
    [final(choice={"finish_reason": 7})],
    [final(choice={"message": None})],
    [final(usage=[])],
    [final(usage={})],
    [final(timings=7)],
    [final(timings={"prompt_ms": "x"})],
    [final(timings={"prompt_ms": 1.7e308, "queue_ms": 1.7e308})],
    [("error", 7)],
    [("error", {"error": {"code": [], "message": {}, "retry_after_ms": "x"}})],
    *(
        [("error", {"error": {"code": "queue_full", "message": "x", "retry_after_ms": wait}})]
        for wait in WAITS
    ),
    [("state", {}), ("nothing", {}), final()],
]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/api/chat"])
def test_a_reply_that_is_none_of_the_protocol_is_an_error_and_no_defect(
    served: Gateway, file_broker: tools.MosquittoBroker, path: str
) -> None:
    headers = {"authorization": f"Bearer {served.keys['alice']}"}
    with closing(Babbling(file_broker.port, "babbles", model="babble")) as device:
        wait_for_model(served.client(), "babble")
        asked: dict[str, Any] = {"model": "babble", "messages": [{"role": "user", "content": "x"}]}
        if path == "/v1/completions":
            asked = {"model": "babble", "prompt": "x"}
        for replies in ODD:
            for stream in (False, True):
                device.replies = tuple(replies)
                told = httpx2.post(
                    served.url + path, json=asked | {"stream": stream}, headers=headers, timeout=20
                )  # it has an end
                assert told.status_code in (200, 400, 429, 500, 502), (replies, told.text)
                assert "see its log" not in told.text, (replies, stream)
        log = (served.file.parent / "gateway.log").read_text()
        assert "Traceback" not in log, log[-3000:]

"""What strangers and clients may try at a gateway's HTTP: real Mosquitto, a gateway in a process of
its own, a device that does as its prompts say."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from edgekit.gateway.app import MAX_BODY_BYTES
from edgekit.gateway.server import HEADER_BYTES
from tests import tools
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.gateway import Gateway, gateway, wait_for_model, with_constants

pytestmark = pytest.mark.timeout(120)

SILENT_CONNECTIONS = 100
EVIL = {"Origin": "https://evil.example"}


def says(text: str) -> Any:
    return [{"role": "user", "content": text}]


def chat(client: openai.OpenAI, text: str, **more: Any) -> Any:
    return client.chat.completions.create(model="toy", messages=says(text), **more)


@pytest.fixture(scope="module")
def one(file_broker: tools.MosquittoBroker) -> Iterator[SimulatedDevice]:
    made = SimulatedDevice(file_broker.port, "one")
    yield made
    made.close()


@pytest.fixture(scope="module")
def made(served: Gateway, one: SimulatedDevice) -> Gateway:
    """A gateway that knows the device."""
    wait_for_model(served.client(), one.model)
    return served


def authorized(made: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.keys['alice']}"}


def sent(made: Gateway, data: bytes, **options: int) -> socket.socket:
    """A connection on which these bytes went out; `options` are those of the socket level."""
    sock = socket.socket()
    sock.settimeout(30)
    for name, value in options.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    sock.connect(("127.0.0.1", made.port))
    sock.sendall(data)
    return sock


def head(made: Gateway, length: int, key: str = "alice") -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {made.keys[key]}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


# --- another's conversation -----------------------------------------------------------------------
def test_the_same_idempotency_key_of_another_requester_is_another_prompt(
    made: Gateway, one: SimulatedDevice
) -> None:
    key: Any = {"extra_headers": {"Idempotency-Key": "order-1"}}
    mine = chat(made.client(), "say 30 50", stream=True, **key)
    text = next(iter(mine)).choices[0].delta.content or ""
    its = chat(made.client("bob"), "say 30 50", stream=True, **key)
    next(iter(its))
    its.close()  # neither ends alice's nor is refused because hers is under way
    text += "".join(chunk.choices[0].delta.content or "" for chunk in mine)
    assert text == "".join(f"w{n} " for n in range(30))
    assert (
        chat(made.client("bob"), "other words", extra_headers={"Idempotency-Key": "order-2"})
        .choices[0]
        .message.content
        == "You said: other words"
    )
    assert (
        chat(made.client(), "secret", extra_headers={"Idempotency-Key": "order-2"})
        .choices[0]
        .message.content
        == "You said: secret"
    )
    assert one.computed.count("order-1") == 2
    assert one.computed.count("order-2") == 2


# --- keys, texts and URLs -------------------------------------------------------------------------
def test_a_key_in_a_url_is_none_and_a_prompt_in_a_url_is_not_read(
    made: Gateway, one: SimulatedDevice
) -> None:
    url, key = f"{made.url}/v1/chat/completions", made.keys["alice"]
    body = {"model": "toy", "messages": says("of the body")}
    for name in ("api_key", "key", "access_token"):
        assert httpx2.post(f"{url}?{name}={key}", json=body).status_code == 401
    query = f"?model=toy&prompt=secret-in-the-url&messages={json.dumps(says('secret-there'))}"
    answer = httpx2.post(url + query, json=body, headers=authorized(made))
    assert answer.json()["choices"][0]["message"]["content"] == "You said: of the body"
    assert httpx2.get(url + query, headers=authorized(made)).status_code == 405
    empty = httpx2.post(url + query, headers=authorized(made))
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, "invalid_request")
    log = (made.file.parent / "gateway.log").read_text()
    assert "secret" not in log
    assert key not in log


@pytest.mark.parametrize(
    "header", ["Bearer", "Basic {}", "{}", "Bearer {} x", "Bearer x{}", "bearer\t{}"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_header_that_is_no_key_is_refused(made: Gateway, header: str, path: str) -> None:
    given = {"Authorization": header.format(made.keys["alice"])}
    body = {"model": "toy", "messages": says("Hi")}
    answer = httpx2.post(made.url + path, json=body, headers=given)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


# --- pages of other sites -------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/models", "/fleet", "/"])
def test_no_page_of_another_site_may_ask(made: Gateway, path: str) -> None:
    """Without a preflight a page can send three kinds of bodies, and no key."""
    asks = EVIL | {"Access-Control-Request-Method": "POST"}
    answers = [
        httpx2.request("OPTIONS", made.url + path, headers=asks),
        httpx2.get(made.url + path, headers=EVIL),
        httpx2.get(made.url + path, headers=EVIL | authorized(made)),
    ]
    assert answers[0].status_code == 405
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        body = json.dumps({"model": "toy", "messages": says("Hi")}).encode()
        headers = EVIL | {"Content-Type": kind}
        answers.append(httpx2.post(made.url + path, content=body, headers=headers))
        assert answers[-1].status_code in (401, 405)
    for each in answers:
        assert not [name for name in each.headers if name.startswith("access-control")]


# --- files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "target",
    [
        "/page/../../../../../../etc/passwd",
        "/page/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/page/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/page/..%5c..%5cetc%5cpasswd",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/index.html%00.js",
        "/page/routes.py",
        "/page/../routes.py",
        "/page/static",
        "/page/.",
        "//etc/passwd",
        "/keys.json",
        "/page/keys.json",
        "/.edgekit/gateway-keys.json",
        "/v1/models/../../etc/passwd",
        "/api/../keys.json",
    ],
)
def test_no_path_leads_to_another_file(made: Gateway, target: str) -> None:
    with sent(
        made, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    ) as sock:
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    status = int(answer.split()[1])
    assert status in (400, 401, 404)
    assert b"root:" not in answer
    assert b"sha256" not in answer
    assert b"import " not in answer


# --- bounds ---------------------------------------------------------------------------------------
def test_bounds_of_a_request(made: Gateway) -> None:
    client = made.client()
    with pytest.raises(openai.APIStatusError) as large:
        chat(client, "x" * MAX_BODY_BYTES)
    assert (large.value.status_code, large.value.code) == (413, "payload_too_large")
    auth = {"Authorization": f"Bearer {made.keys['alice']}"}

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (MAX_BODY_BYTES // 10)

    url = f"{made.url}/v1/chat/completions"
    endless = httpx2.post(url, content=pieces(), headers=auth)
    assert endless.status_code == 413
    assert (
        httpx2.post(url, content=b"{}", headers=auth | {"Content-Type": "text/plain"}).status_code
        == 415
    )
    with socket.create_connection(("127.0.0.1", made.port), timeout=10) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nX: " + b"y" * (2 * HEADER_BYTES))
        assert b"400" in sock.recv(100)
    assert httpx2.get(f"{made.url}/v1/nothing", headers=auth).json()["error"]["code"] == "not_found"
    assert httpx2.get(url, headers=auth).status_code == 405
    assert httpx2.get(f"{made.url}/v1/models/../../etc/passwd", headers=auth).status_code == 404
    for wrong in (
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET /health\r\n\r\n",
    ):
        with sent(made, wrong) as sock:
            assert b" 400 " in sock.recv(100)


def test_a_head_that_arrives_byte_by_byte_is_cut_off(
    file_broker: tools.MosquittoBroker, one: SimulatedDevice, tmp_path: Path
) -> None:
    program = with_constants({"edgekit.gateway.server.HEADER_SECONDS": 1})
    with gateway(tmp_path, file_broker.port, program=program) as quick:
        with sent(quick, b"GET /health HTTP/1.1\r\nX: ") as slow, sent(quick, b"") as silent:
            began = time.monotonic()
            slow.settimeout(0.1)
            ended = False
            while not ended and time.monotonic() - began < 10:
                try:
                    slow.sendall(b"y")
                    ended = slow.recv(10) == b""
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
            assert 0.5 < time.monotonic() - began < 8
            assert silent.recv(10) == b""
        assert httpx2.get(f"{quick.url}/health").status_code == 200


def test_silent_connections_keep_nobody_out(made: Gateway) -> None:
    with ExitStack() as stack:
        for _ in range(SILENT_CONNECTIONS):
            stack.enter_context(sent(made, b"POST /v1/chat/completions HTTP/1.1\r\n"))
        assert chat(made.client(), "Hi").choices[0].message.content == "You said: Hi"


def test_a_body_that_arrives_byte_by_byte_is_cut_off(
    file_broker: tools.MosquittoBroker, one: SimulatedDevice, tmp_path: Path
) -> None:
    program = with_constants({"edgekit.gateway.app.BODY_SECONDS": 1})
    with gateway(tmp_path, file_broker.port, program=program) as quick:
        began = time.monotonic()
        with sent(quick, head(quick, 1000)) as sock:
            sock.settimeout(0.1)
            answer = b""
            while not answer and time.monotonic() - began < 10:
                sock.sendall(b" ")
                try:
                    answer = sock.recv(1000)
                except TimeoutError:
                    continue
        assert b" 408 " in answer
        assert 0.9 < time.monotonic() - began < 8


def test_a_client_that_reads_nothing_is_let_go_and_costs_no_memory(
    file_broker: tools.MosquittoBroker, one: SimulatedDevice, tmp_path: Path
) -> None:
    """The system ends its connection (TCP_USER_TIMEOUT), long before the deadline."""
    body = json.dumps({"model": "toy", "messages": says("say 9000 1"), "stream": True}).encode()
    program = with_constants({"edgekit.gateway.server.UNREAD_SECONDS": 2})
    with gateway(tmp_path, file_broker.port, program=program) as quick:
        wait_for_model(quick.client(), "toy")
        before = quick.rss_mb()
        with sent(quick, head(quick, len(body)) + body, SO_RCVBUF=2048):
            tools.eventually(lambda: quick.under_way() == 1, 10, "the answer is under way")
            tools.eventually(lambda: quick.under_way() == 0, 40, "the gateway has let go")
            assert quick.rss_mb() - before < 20
        (prompt,) = [p for p in one.prompts.values() if p.body["messages"] == says("say 9000 1")]
        assert prompt.cancelled.wait(5)
        assert "w8999" not in prompt.shown
        assert chat(quick.client(), "Hi").choices[0].message.content == "You said: Hi"


# --- what is told ---------------------------------------------------------------------------------
def test_no_prompt_and_no_key_is_in_the_log(made: Gateway) -> None:
    chat(made.client(), "secret-of-the-prompt")
    httpx2.get(f"{made.url}/v1/models?prompt=secret-in-the-url")
    text = (made.file.parent / "gateway.log").read_text()
    assert "secret" not in text
    assert made.keys["alice"] not in text
    metrics = httpx2.get(f"{made.url}/metrics").text
    assert "alice" not in metrics
    assert 'edgekit_gateway_requests_total{status="200"}' in metrics

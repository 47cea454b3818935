"""What a gateway does when devices, brokers, clients and it itself fail: real Mosquitto, a gateway
in a process of its own, devices that do as their prompts say."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from edgekit.gateway import keys
from tests import tools
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.gateway import TODAY, Gateway, gateway, wait_for_model
from tests.pki import Authority

pytestmark = pytest.mark.timeout(120)

Devices = Callable[..., SimulatedDevice]


def says(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def device(file_broker: tools.MosquittoBroker) -> Iterator[Devices]:
    """Makes devices, which are forgotten after the test."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> SimulatedDevice:
            one = SimulatedDevice(file_broker.port, name, **options)
            stack.callback(one.close)
            return one

        yield make


def ready(served: Gateway, *names: str) -> openai.OpenAI:
    client = served.client()
    for name in names:
        wait_for_model(client, f"device:{name}")
    return client


def chat(client: openai.OpenAI, text: str, model: str = "toy", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=says(text), **more)


# --- devices ------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", ["queue_full", "thermal", "draining", "rate_limited"])
def test_a_device_that_refuses_is_followed_by_another_before_the_prompt_is_accepted(
    served: Gateway, device: Devices, code: str
) -> None:
    """`refuse CODE` is refused by all: the gateway has asked each of them once."""
    both = [device("one", pools=("p",)), device("two", pools=("p",))]
    client = ready(served, "one", "two")
    with pytest.raises(openai.APIStatusError) as refused:
        chat(client, f"refuse {code}", "pool:p")
    assert refused.value.code == code
    assert refused.value.response.headers["x-should-retry"] == "true"
    assert refused.value.response.headers["retry-after-ms"] == "40"
    assert [len(each.prompts) for each in both] == [1, 1]
    assert both[0].prompts.keys() == both[1].prompts.keys()  # one ek-id


def test_errors_are_the_sdk_s_exceptions(served: Gateway, device: Devices) -> None:
    one = device("one")
    client = ready(served, "one")
    for code, kind in {
        "context_length_exceeded": openai.BadRequestError,
        "unsupported_parameter": openai.BadRequestError,
        "id_conflict": openai.ConflictError,
        "invalid_schema": openai.UnprocessableEntityError,
        "queue_full": openai.RateLimitError,
        "worker_crashed": openai.InternalServerError,
        "no_storage": openai.InternalServerError,
    }.items():
        for verb in ("refuse", "fail"):
            for stream in (False, True):
                with pytest.raises(kind) as caught:
                    chat(client, f"{verb} {code}", stream=stream)
                assert caught.value.code == code, (verb, stream)
    assert len(one.prompts) == 28


@pytest.mark.parametrize("verb", ["refuse", "fail"])
def test_a_deadline_that_a_device_says_has_passed_is_not_tried_again(
    served: Gateway, device: Devices, verb: str
) -> None:
    one = device("one")
    ready(served, "one")
    with pytest.raises(openai.APIStatusError) as late:
        chat(served.client(retries=2), f"{verb} deadline_exceeded")
    assert (late.value.status_code, late.value.code) == (408, "deadline_exceeded")
    assert late.value.response.headers["x-should-retry"] == "false"
    assert len(one.prompts) == 1


def test_after_it_was_accepted_a_prompt_goes_to_no_other_device(
    served: Gateway, device: Devices
) -> None:
    both = [device("one"), device("two")]
    client = ready(served, "one", "two")
    with pytest.raises(openai.InternalServerError):
        chat(client, "fail worker_crashed")
    with pytest.raises(openai.APIStatusError) as late:
        chat(client, "accept", extra_headers={"Edgekit-Deadline": "2"})
    assert (late.value.status_code, late.value.code) == (408, "deadline_exceeded")
    assert late.value.response.headers["x-should-retry"] == "false"
    assert sum(len(each.prompts) for each in both) == 2
    known = [prompt for each in both for prompt in each.prompts.values()]
    tools.eventually(lambda: any(p.cancelled.is_set() for p in known), 5, "the late one's cancel")


def test_a_device_that_is_silent_loses_the_prompt_to_another_one(
    served: Gateway, device: Devices
) -> None:
    """It is told to cancel: what it does later than that is for nobody."""
    both = [device("one"), device("two")]
    client = ready(served, "one", "two")
    deaf = both[0]
    deaf.mqtt.unsubscribe(["edgekit/v1/req/dev/one/+"])
    deaf.say_state("ready", tok_s=99.0)  # it comes first
    time.sleep(0.3)
    began = time.monotonic()
    assert chat(client, "Hi").choices[0].message.content == "You said: Hi"
    assert time.monotonic() - began < 10
    assert (len(both[0].prompts), len(both[1].prompts)) == (0, 1)


def test_a_device_that_is_lost_is_said_to_be(served: Gateway, device: Devices) -> None:
    one = device("one", pools=("p",))
    client = ready(served, "one")
    one.say_state("lost")
    tools.eventually(lambda: "toy" not in {m.id for m in client.models.list()})
    with pytest.raises(openai.InternalServerError, match="one is `lost`") as refused:
        chat(client, "Hi")
    assert refused.value.code == "device_unreachable"


def test_a_conversation_stays_with_its_device_and_new_ones_spread(
    served: Gateway, device: Devices
) -> None:
    fleet = [device(f"d{n}") for n in range(4)]
    client = ready(served, *(each.name for each in fleet))
    turns: list[Any] = says("first")
    homes = []
    for text in ("second", "third", "fourth"):
        raw = client.chat.completions.with_raw_response.create(model="toy", messages=turns)
        homes.append(raw.headers["edgekit-device"])
        turns += [raw.parse().choices[0].message.model_dump(), *says(text)]
        for each in fleet:  # the others look faster
            each.say_state("ready", tok_s=1.0 if each.name == homes[0] else 50.0)
        time.sleep(0.2)
    assert len(set(homes)) == 1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: chat(client, f"say 4 100 {n}"[:9]), range(4)))
    assert all(each.prompts for each in fleet)


def test_lost_deltas_cost_no_text(served: Gateway, device: Devices) -> None:
    device("one")
    client = ready(served, "one")
    text = "".join(
        chunk.choices[0].delta.content or "" for chunk in chat(client, "lose 2 say 6", stream=True)
    )
    assert text == "w0 w1 w2 w3 w4 w5 "


def test_a_call_of_a_tool_comes_whole_and_as_a_stream(served: Gateway, device: Devices) -> None:
    device("one")
    client = ready(served, "one")
    whole = chat(client, "tools").choices[0]
    assert (whole.finish_reason, whole.message.tool_calls[0].function.name) == (
        *("tool_calls", "look"),
    )
    chunks = [chunk.choices[0] for chunk in chat(client, "tools", stream=True)]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert [(call.index, call.function.arguments) for call in calls] == [(0, '{"at":"sky"}')]
    assert chunks[-1].finish_reason == "tool_calls"


# --- clients ------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_cancels_its_prompt(
    served: Gateway, device: Devices, stream: bool
) -> None:
    one = device("one")
    ready(served, "one")
    body = json.dumps({"model": "toy", "messages": says("say 1000 20"), "stream": stream}).encode()
    with post(served, body) as sock:
        tools.eventually(lambda: one.prompts, 5)
        (prompt,) = one.prompts.values()
        tools.eventually(lambda: prompt.shown, 5)
        sock.close()
        assert prompt.cancelled.wait(3)
    assert len(prompt.shown) < 1000


def post(served: Gateway, body: bytes, head: str = "") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    sock.sendall(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {served.keys['alice']}\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        "".encode()
        + body
    )
    return sock


def test_an_idempotency_key_has_one_answer(served: Gateway, device: Devices) -> None:
    fleet = [device(f"d{n}") for n in range(3)]
    client = ready(served, *(each.name for each in fleet))
    asked: Any = {"extra_headers": {"Idempotency-Key": "order-7"}}
    first = chat(client, "say 3", **asked)
    assert first.id == "chatcmpl-order-7"
    for _ in range(20):  # each at once after the one before, of which the gateway still cleans up
        assert chat(client, "say 3", **asked).choices == first.choices
    assert sum(len(each.computed) for each in fleet) == 1
    with pytest.raises(openai.BadRequestError, match="Idempotency-Key"):
        chat(client, "say 3", extra_headers={"Idempotency-Key": "x" * 129})


@pytest.mark.parametrize("key", ["order#1", "a+b", "/" * 100, "a b$", "x" * 128])
def test_an_idempotency_key_may_have_what_a_topic_may_not(
    served: Gateway, device: Devices, key: str
) -> None:
    one = device("one")
    client = ready(served, "one")
    asked: Any = {"Idempotency-Key": key, "Edgekit-Deadline": "5"}
    assert chat(client, "Hi", extra_headers=asked).choices[0].message.content == "You said: Hi"
    assert one.computed == [key]


def test_a_prompt_with_an_idempotency_key_outlives_its_request(
    served: Gateway, device: Devices
) -> None:
    one = device("one")
    client = ready(served, "one")
    asked: Any = {"extra_headers": {"Idempotency-Key": "order-8"}}
    stream = chat(client, "say 20 50", stream=True, **asked)
    next(iter(stream))
    with pytest.raises(openai.ConflictError):
        chat(client, "say 20 50", stream=True, **asked)
    stream.close()
    text = ""
    tools.eventually(lambda: one.prompts["order-8"].outcome, 10)
    for chunk in chat(client, "say 20 50", stream=True, **asked):
        text += chunk.choices[0].delta.content or ""
    assert text == "".join(f"w{n} " for n in range(20))
    assert one.computed == ["order-8"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_prompt_that_is_asked_for_again_is_an_error_and_no_empty_answer(
    served: Gateway, device: Devices, stream: bool
) -> None:
    one = device("one")
    client = ready(served, "one")
    key = {"Idempotency-Key": f"order-10-{stream}"}
    with pytest.raises(openai.APIStatusError):
        chat(client, "accept", stream=stream, extra_headers=key | {"Edgekit-Deadline": "1"})
    tools.eventually(lambda: all(each.outcome for each in one.prompts.values()), 5)
    with pytest.raises(openai.APIStatusError) as cancelled:
        chat(client, "accept", stream=stream, extra_headers=key)
    assert (cancelled.value.status_code, cancelled.value.code) == (499, "cancelled")
    assert cancelled.value.response.headers["x-should-retry"] == "false"


# --- the gateway --------------------------------------------------------------------------------
def test_more_answers_than_it_takes_are_refused(
    file_broker: tools.MosquittoBroker, device: Devices, tmp_path: Path
) -> None:
    device("one")
    with gateway(tmp_path, file_broker.port, "--streams", "2") as small:
        client = ready(small, "one")
        both = (client, small.client("bob"))
        held = [chat(each, "say 1000 20", stream=True) for each in both]
        for each in held:
            next(iter(each))
        with pytest.raises(openai.RateLimitError, match="2 answers are under way"):
            chat(client, "Hi")
        for each in held:
            each.close()
        tools.eventually(lambda: succeeds(lambda: chat(client, "Hi")), 5)


def succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except openai.APIError:
        return False
    return True


def test_a_gateway_that_listens_knows_its_devices(
    file_broker: tools.MosquittoBroker, device: Devices, tmp_path: Path
) -> None:
    device("one")
    with gateway(tmp_path, file_broker.port) as new:
        assert chat(new.client(), "Hi").choices[0].message.content == "You said: Hi"


def test_a_stop_lets_answers_end_and_takes_no_new_ones(
    file_broker: tools.MosquittoBroker, device: Devices, tmp_path: Path
) -> None:
    one = device("one")
    with gateway(tmp_path, file_broker.port) as stopped:
        client = ready(stopped, "one")
        stream = iter(chat(client, "say 20 100", stream=True))
        next(stream)
        stopped.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(openai.APIConnectionError):
            chat(stopped.client(), "Hi")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == "".join(f"w{n} " for n in range(20))
        assert stopped.process.wait(10) == 0
    assert len(one.computed) == 1


def test_a_drain_that_takes_too_long_cancels_what_is_left_and_says_so(
    file_broker: tools.MosquittoBroker, device: Devices, tmp_path: Path
) -> None:
    one = device("one")
    with gateway(tmp_path, file_broker.port, "--drain", "1") as stopped:
        client = ready(stopped, "one")
        stream = iter(chat(client, "say 1000 50", stream=True))
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(chat, client, "accept")
            tools.eventually(lambda: len(one.prompts) == 2, 5)
            began = time.monotonic()
            assert stopped.stop() == 0
            assert time.monotonic() - began < 10
            with pytest.raises(openai.APIError) as broken:
                list(stream)
            assert broken.value.code == "draining"
            with pytest.raises(openai.InternalServerError) as refused:
                whole.result(10)
            assert refused.value.code == "draining"
        assert all(prompt.cancelled.wait(5) for prompt in one.prompts.values())
        assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def test_a_killed_gateway_answers_nothing_twice(
    file_broker: tools.MosquittoBroker, device: Devices, tmp_path: Path
) -> None:
    """The client asks the next gateway with its Idempotency-Key: the device has the answer."""
    fleet = [device(f"d{n}") for n in range(3)]
    port = tools.free_port()
    asked: Any = {"extra_headers": {"Idempotency-Key": "order-9"}}
    with gateway(tmp_path / "a", file_broker.port, port=port) as first:
        client = ready(first, *(each.name for each in fleet))
        stream = chat(client, "say 20 50", stream=True, **asked)
        next(iter(stream))
        first.process.kill()
        with pytest.raises((openai.APIError, httpx2.HTTPError)):
            list(stream)
    for each in fleet:
        each.say_state("ready", tok_s=1.0, active=len(each.computed))
    with gateway(tmp_path / "b", file_broker.port, port=port) as second:
        client = ready(second, *(each.name for each in fleet))
        text = chat(client, "say 20 50", stream=True, **asked)
        assert "".join(c.choices[0].delta.content or "" for c in text) == "".join(
            f"w{n} " for n in range(20)
        )
    assert sum(len(each.computed) for each in fleet) == 1


def test_a_broker_that_restarts_costs_an_answer_time_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with tools.mosquitto(folder) as own:
        one = SimulatedDevice(own.port, "one")
        with gateway(tmp_path / "gateway", own.port) as served:
            client = ready(served, "one")
            told: list[str] = []

            def read() -> None:
                told.extend(
                    chunk.choices[0].delta.content or ""
                    for chunk in chat(client, "say 20 100", stream=True)
                )

            reader = threading.Thread(target=read)
            reader.start()
            tools.eventually(lambda: one.prompts, 5)
            time.sleep(0.5)
            own.stop(kill=True)
            time.sleep(0.5)
            assert httpx2.get(f"{served.url}/health").json()["status"] == "no broker"
            own.start()
            reader.join(60)
            assert "".join(told) == "".join(f"w{n} " for n in range(20))
            assert len(one.computed) == 1
        one.close()


def test_tls(file_broker: tools.MosquittoBroker, device: Devices, tmp_path: Path) -> None:
    device("one")
    ca = Authority(tmp_path)
    shown = ca.issue("gateway", hosts=("127.0.0.1",))
    files = ("--cert-file", str(shown.cert), "--key-file", str(shown.key))
    with gateway(tmp_path / "gateway", file_broker.port, *files) as served:
        assert served.url.startswith("https://")
        http = httpx2.Client(verify=ssl.create_default_context(cafile=str(ca.cert)))
        client = openai.OpenAI(
            base_url=f"{served.url}/v1", api_key=served.keys["alice"], http_client=http
        )
        wait_for_model(client, "toy")
        assert chat(client, "Hi").choices[0].message.content == "You said: Hi"


# --- how it starts ------------------------------------------------------------------------------
def start(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run(
        [sys.executable, "-m", "edgekit", "gateway", "--port", "0", *options],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_is_wrong_is_said_at_the_start(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    here = ("--broker", f"127.0.0.1:{file_broker.port}", "--keys", str(file))
    done = start(tmp_path, *here)
    assert (done.returncode, "gateway key add" in done.stderr) == (2, True)
    keys.add(file, "alice", TODAY)
    dead = start(tmp_path, "--broker", f"127.0.0.1:{tools.free_port()}", "--keys", str(file))
    assert dead.returncode == 1
    assert "127.0.0.1" in dead.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = start(tmp_path, *here, "--port", str(taken.getsockname()[1]))
    assert (done.returncode, "cannot listen" in done.stderr) == (2, True)
    done = start(tmp_path, *here, "--cert-file", str(file), "--key-file", str(file))
    assert (done.returncode, "certificate cannot be used" in done.stderr) == (2, True)
    done = start(tmp_path, *here, "--deadline", "4000")
    assert (done.returncode, "deadline" in done.stderr) == (2, True)
    for each in (dead, done):
        assert "Traceback" not in each.stderr

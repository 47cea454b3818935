"""Attacks on a real agent behind a real Mosquitto: each fails, and the next prompt is answered."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.serve.session.intake import REPEATS_PER_PROMPT
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from tests.attackers import (
    ADMIN,
    DRAIN_SECONDS,
    FLOOD_PER_SECOND,
    HELLO,
    SHORT,
    WAIT_SECONDS,
    Attacked,
    attacked,
    ended,
    flood,
    flooded_to_idle,
    overtaken,
    seconds,
)
from tests.endurance.fuzz import rss_kib
from tests.endurance.fuzz_broker import ASKING, STRANGERS, attack
from tests.harness.packets import connect, publish, string

pytestmark = pytest.mark.timeout(300)

NOT_AUTHORIZED = 0x87
VICTIM = "edgekit/v1/res/victim/1"
ATTEMPTS = 3
PER_MINUTE = 100  # of one requester; a flood uses them up in a second
REPEATS = PER_MINUTE * REPEATS_PER_PROMPT  # and these, which are bounded by themselves, in some


@pytest.fixture(scope="module")
def whole(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    limit = f"requests_per_minute = {PER_MINUTE}\n"
    with attacked(tmp_path_factory.mktemp("attacked"), smollm2, limit) as device:
        yield device


@pytest.fixture
def device(whole: Attacked) -> Iterator[Attacked]:
    """The device; strangers leave after each test."""
    yield whole
    whole.close_strangers()
    whole.heard.clear()


def nothing_was_said(device: Attacked, prompt_id: str) -> bool:
    device.settle()
    return device.replies(prompt_id) == []


# --- whose answer it is -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "topic",
    [
        VICTIM,
        "edgekit/v1/res/mallory",
        "edgekit/v1/res/mallory/",
        "edgekit/v1/res/mallory2/1",
        "edgekit/v1/dev/demo/status",
        "edgekit/v1/req/dev/demo/victim",
        "",
        "$SYS/x",
        "../victim/1",
    ],
)
def test_a_spoofed_response_topic_gets_no_answer(device: Attacked, topic: str) -> None:
    mallory = device.stranger("mallory")
    assert nothing_was_said(device, mallory.ask(HELLO, ResponseTopic=topic))


@pytest.mark.parametrize("end", [b"#", b"+", b"+/x", b"x\0", b"\xff", b"\xed\xa0\x80"], ids=repr)
def test_a_response_topic_that_is_none_gets_no_answer(device: Attacked, end: bytes) -> None:
    topic = b"edgekit/v1/res/mallory/" + end
    properties = b"\x08" + string(topic) + b"\x02\x00\x00\x00\x3c\x26" + string(b"ek-id")
    with device.raw() as sock:
        sock.sendall(connect(b"mallory", username=b"mallory"))
        body = json.dumps(HELLO).encode()
        request = topics.request_topic("demo", "mallory").encode()
        sock.sendall(publish(request, body, properties + string(b"no-topic")))
        assert nothing_was_said(device, "no-topic")


@pytest.mark.parametrize("name", ["mal lory", "m" * 65, "mällory", ".", "%u"])
def test_a_requester_whose_name_is_none_gets_no_answer(device: Attacked, name: str) -> None:
    admin = device.stranger(ADMIN)
    address = {
        "topic": topics.request_topic("demo", name),
        "ResponseTopic": f"edgekit/v1/res/{name}/1",
    }
    prompt = admin.ask(HELLO, **address)
    if name == ".":  # odd, but a level of its own
        device.settle()
        assert {h.topic for h in device.replies(prompt)} == {"edgekit/v1/res/./1"}
    else:
        assert nothing_was_said(device, prompt)


def test_a_foreign_requester_is_refused_by_the_broker_and_the_device_never_hears_of_it(
    device: Attacked,
) -> None:
    mallory = device.stranger("mallory")
    foreign = topics.request_topic("demo", "victim")
    mallory.client.publish(foreign, b"{}", 1)
    assert mallory.codes.get(timeout=WAIT_SECONDS) == NOT_AUTHORIZED
    device.settle()
    assert foreign not in {heard.topic for heard in device.heard}


def test_who_subscribes_to_everything_hears_no_prompt_and_no_answer_of_others(
    device: Attacked,
) -> None:
    filters = ["#", "+/#", "edgekit/#", "edgekit/v1/res/#", "edgekit/v1/res/victim/#"]
    filters += ["edgekit/v1/req/#", "edgekit/v1/+/+/#", "$share/x/edgekit/v1/res/victim/#"]
    mallory = device.stranger("mallory", *filters)
    victim = device.stranger("victim")
    prompt = victim.ask(HELLO)
    assert victim.reply(prompt).kind == "final"
    device.settle()
    levels = set()
    while not mallory.heard.empty():
        levels.add(mallory.heard.get().topic.split("/")[2])
    assert levels == {"dev"}  # card and status, which are everybody's


# --- what is not fresh ------------------------------------------------------------------------
def test_a_prompt_that_was_retained_before_the_device_came_is_not_answered(
    whole: Attacked,
) -> None:
    early = whole.stranger(ADMIN, topics.request_topic("demo", ADMIN))
    assert early.heard.get(timeout=WAIT_SECONDS).user["ek-id"] == "retained-before"  # it is there
    assert nothing_was_said(whole, "retained-before")


def test_a_retained_prompt_is_answered_once_and_not_again_when_the_agent_comes_back(
    device: Attacked,
) -> None:
    admin = device.stranger(ADMIN)
    prompt = admin.ask(HELLO | {"temperature": 1.5}, retain=True)
    assert admin.reply(prompt).kind == "final"
    pid = device.pid
    os.kill(pid, signal.SIGKILL)
    device.wait_for_another(pid)
    device.settle()
    said = device.replies(prompt)
    assert [heard.kind for heard in said].count("accepted") == 1
    # the outbox may say it again, if the PUBACK was not stored yet
    assert len({heard.payload for heard in said if heard.kind == "final"}) == 1
    admin.publish(topics.request_topic("demo", ADMIN), b"", retain=True)  # forget it


def test_a_captured_prompt_that_is_sent_again_is_never_computed_twice(device: Attacked) -> None:
    victim, mallory, admin = (device.stranger(name) for name in ("victim", "mallory", ADMIN))
    body = json.dumps(HELLO | {"temperature": 1.5, "max_tokens": 12}).encode()
    prompt = victim.ask(body)
    first = victim.reply(prompt).payload
    request = topics.request_topic("demo", "victim")
    # by whom the broker lets act for the victim: the victim gets the stored answer once more
    admin.ask(body, prompt, topic=request, ResponseTopic=VICTIM)
    assert victim.reply(prompt).payload == first
    # under another name to the victim's topic: silence; on the victim's topic: not authorized
    mallory.ask(body, prompt, ResponseTopic=VICTIM)
    mallory.ask(body, prompt, topic=request)
    device.settle()
    said = device.replies(prompt)
    assert {heard.topic for heard in said} == {VICTIM}
    assert [heard.payload for heard in said if heard.kind == "final"] == [first, first]
    assert [heard.kind for heard in said].count("accepted") == 1
    # under another name for itself: a prompt of its own, which tells nothing of the victim's
    mallory.ask(body, prompt)
    other = mallory.reply(prompt)
    assert other.topic == "edgekit/v1/res/mallory/1"
    assert other.json["choices"] != json.loads(first)["choices"]


# --- what is too large ------------------------------------------------------------------------
def test_a_body_above_128_kib_is_refused_and_one_below_is_read(device: Attacked) -> None:
    mallory = device.stranger("mallory")
    room = wire.MAX_BODY_BYTES - len(json.dumps(HELLO)) + 2
    for size, code in ((room, "context_length_exceeded"), (room + 1, "payload_too_large")):
        body = HELLO | {"messages": [{"role": "user", "content": "x" * size}]}
        assert mallory.reply(mallory.ask(body)).json["error"]["code"] == code
    device.settle()


def test_a_packet_above_what_the_device_takes_is_kept_back_by_the_broker(device: Attacked) -> None:
    mallory = device.stranger("mallory")
    assert nothing_was_said(device, mallory.ask(b"x" * (900 << 10)))


@pytest.mark.parametrize("kib", [300, 510, 768])
def test_a_prompt_for_a_pool_of_devices_that_see_is_refused_by_name_by_one_that_does_not(
    device: Attacked, kib: int
) -> None:
    mallory = device.stranger("mallory")
    prompt = mallory.ask(b"x" * (kib << 10))
    assert mallory.reply(prompt).json["error"]["code"] == "payload_too_large"


def test_a_packet_above_the_broker_s_limit_costs_its_sender_the_connection_and_nobody_else(
    device: Attacked,
) -> None:
    victim = device.stranger("victim")
    with device.raw() as sock:
        sock.sendall(connect(b"mallory", username=b"mallory"))
        assert sock.recv(4096)[0] == 0x20
        topic = topics.request_topic("demo", "mallory").encode()
        with suppress(ConnectionError):
            sock.sendall(publish(topic, b"x" * (2 << 20)))
        assert ended(sock)
    device.settle()
    assert victim.reply(victim.ask(HELLO)).kind == "final"


# --- what is hard to read ---------------------------------------------------------------------
DEEP: dict[str, bytes] = {
    "arrays": b"[" * 100_000,
    "closed arrays": b"[" * 60_000 + b"]" * 60_000,
    "objects": b'{"a":' * 25_000,
    "in messages": b'{"messages":' + b"[" * 100_000,
    "in a field nobody knows": b'{"messages":[],"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "in logit_bias": b'{"messages":[{"role":"user","content":"Hi"}],"logit_bias":'
    + b'{"1":' * 20_000,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_json_is_refused_at_once(device: Attacked, name: str) -> None:
    mallory = device.stranger("mallory")
    began = time.monotonic()
    error = mallory.reply(mallory.ask(DEEP[name])).json["error"]
    assert error["code"] in ("invalid_request", "unsupported_parameter")
    assert len(error["message"]) <= 500
    assert time.monotonic() - began < 20
    mallory.publish(topics.control_topic("demo", "mallory"), DEEP[name])
    device.settle()


HUGE: dict[str, tuple[dict[str, Any], str]] = {
    "20,000 stops": ({"stop": ["a"] * 20_000}, "stop"),
    "a stop of 100,000 letters": ({"stop": "a" * 100_000}, "stop"),
    "stops of 30,000 letters": ({"stop": ["a" * 30_000] * 4}, "stop"),
    "10,000 biases": ({"logit_bias": {str(n): 1 for n in range(10_000)}}, "logit_bias"),
    "a bias beyond the vocabulary": ({"logit_bias": {"2147483647": 1}}, "logit_bias"),
    "a seed of 100,000 digits": ({"seed": 10**4000}, "seed"),
    "20,000 messages": ({"messages": [{}] * 20_000}, "messages"),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_field_is_refused_by_name(device: Attacked, name: str) -> None:
    mallory = device.stranger("mallory")
    fields, param = HUGE[name]
    error = mallory.reply(mallory.ask(HELLO | fields)).json["error"]
    assert (error["code"], error["param"][: len(param)]) == ("invalid_request", param)
    device.settle()


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a" * n for n in (256, 255, 254, 253)]},
        {"logit_bias": {str(n): -100 for n in range(1024)}},
        {"messages": [{"role": "user", "content": "x"}] * 200},
    ],
    ids=["stops", "logit_bias", "messages"],
)
def test_the_largest_that_is_allowed_is_answered(device: Attacked, fields: dict[str, Any]) -> None:
    mallory = device.stranger("mallory")
    assert mallory.reply(mallory.ask(HELLO | fields)).kind in ("final", "error")
    device.settle()


@pytest.mark.parametrize("piece", ["a", " ", "\n", "☕", "é", "1", "-", "<|im_start|>", "\u200d"])
def test_a_text_without_end_holds_nobody_up(device: Attacked, piece: str) -> None:
    mallory = device.stranger("mallory")
    text = piece * (120_000 // len(json.dumps(piece)))
    began = time.monotonic()
    reply = mallory.reply(mallory.ask(HELLO | {"messages": [{"role": "user", "content": text}]}))
    assert time.monotonic() - began < 20
    if reply.kind == "error":  # else it is few tokens
        assert reply.json["error"]["code"] == "context_length_exceeded"


# --- floods -----------------------------------------------------------------------------------
def test_the_next_prompt_is_another_s_while_one_requester_floods(device: Attacked) -> None:
    victim = device.stranger("victim")
    slots = card(device)["slots"]
    seconds(victim)
    for number in range(2):
        device.settle()
        device.heard.clear()
        with flood(device, f"flood-{number}", SHORT):  # who has a minute's prompts left
            seconds(victim)
        device.settle()
        # those that had their slot when it came, and the one whose turn it was
        assert overtaken(device.heard, VICTIM) <= slots
        time.sleep(DRAIN_SECONDS)


def test_behind_the_rate_limit_another_is_served_within_twice_its_idle_time(
    device: Attacked,
) -> None:
    victim = device.stranger("victim")
    with flood(device, "flood-2", SHORT):
        time.sleep(1)  # that costs it the minute's prompts it had
    for _ in range(ATTEMPTS):  # others use this machine, too
        ratio = flooded_to_idle(device, victim, "flood-2")
        if ratio < 2:
            return
    pytest.fail(f"{ratio:.1f} times as long as without the flood")


def test_one_prompt_sent_again_and_again_is_bounded_and_keeps_nobody_from_the_device(
    device: Attacked,
) -> None:
    victim = device.stranger("victim")
    began = time.monotonic()
    with flood(device, "flood-3", SHORT, again=True):
        time.sleep(REPEATS / FLOOD_PER_SECOND + 1)
        idle_or_not = seconds(victim)
        lasted = time.monotonic() - began
    assert idle_or_not < WAIT_SECONDS / 2
    device.settle()
    heard = [h for h in device.heard if h.topic == "edgekit/v1/res/flood-3/1"]
    codes = [h.json["error"]["code"] for h in heard if h.kind == "error"]
    assert set(codes) == {"rate_limited"}
    served = sum(h.kind in ("accepted", "final") for h in heard)
    assert REPEATS <= served <= REPEATS * (1 + (lasted + 1) / 60) + 2  # its prompt, and its final


def card(device: Attacked) -> Any:
    reader = device.stranger("reader", "edgekit/v1/dev/demo/card")
    return reader.heard.get(timeout=WAIT_SECONDS).json


# --- anything ---------------------------------------------------------------------------------
def test_thousands_of_mutated_packets_through_the_broker_leave_the_device_as_it_was(
    device: Attacked,
) -> None:
    agent, memory = device.pid, rss_kib(device.pid)
    broker = BrokerConfig("127.0.0.1", device.broker.port, username=ADMIN)
    assert attack(broker, "demo", packets=2000, seed=20261126)["packets"] == 2000
    device.settle()
    answered = {heard.topic.split("/")[3].encode() for heard in device.heard if heard.kind}
    assert not answered & set(STRANGERS), "who had not asked was answered"
    assert set(ASKING) <= answered
    assert device.pid == agent
    assert rss_kib(agent) - memory < 64 << 10


# --- whose words ------------------------------------------------------------------------------
def test_no_word_of_a_prompt_is_in_the_log(device: Attacked) -> None:
    """Neither when it is answered, nor refused, nor when worker or agent die over it."""
    mallory = device.stranger("mallory")
    word = "xylophonist"

    def content(text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": f"{word} {text}"}]}

    endless = content("") | {"max_tokens": 800, "logit_bias": {"2": -100}}
    mallory.reply(mallory.ask(content("!")))
    mallory.reply(mallory.ask(content("x " * 5000)))  # too long
    mallory.reply(mallory.ask(content("") | {word: 1}))
    mallory.reply(mallory.ask(content("") | {"model": word}))
    mallory.reply(mallory.ask(f"{{{word}".encode()))
    mallory.publish(topics.control_topic("demo", "mallory"), word.encode())
    mallory.ask(content(""), ResponseTopic=f"edgekit/v1/res/{word}/1")
    mallory.ask(content(""), UserProperty=[("ek-id", "\ufeff"), (word, word)])
    for who in ("worker", "agent"):
        agent = device.pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        prompt = mallory.ask(endless)
        mallory.reply(prompt, "delta")
        os.kill(agent if who == "agent" else int(children[0]), signal.SIGKILL)
        mallory.publish(topics.control_topic("demo", "mallory"), control("cancel", prompt))
        device.wait_for_another(agent if who == "agent" else 0)
        mallory.publish(topics.control_topic("demo", "mallory"), control("cancel", prompt))
        assert mallory.reply(prompt).kind == "final"
    device.settle()
    log = device.root.log_file.read_text()
    assert "model process" in log  # it is the log, and says that one died
    assert word not in log
    for file in device.root.journal.parent.glob("journal.db*"):
        assert file.stat().st_mode & 0o777 == 0o600


def control(kind: str, prompt_id: str) -> bytes:
    return json.dumps({"kind": kind, "id": prompt_id}).encode()

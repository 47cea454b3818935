"""Which device gets a prompt: load, kept prefixes, and what retained messages may say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgekit.core.protocol import topics
from edgekit.gateway import body, catalog
from edgekit.gateway.affinity import Affinity
from edgekit.gateway.catalog import Served, heard, models, named, order


def ready(name: str, **told: Any) -> Served:
    return Served(name, "toy", "1", state=told.pop("state", "ready"), **told)


def names(found: list[Served]) -> list[str]:
    return [each.name for each in found]


def test_the_device_with_the_least_load_for_its_slots_comes_first() -> None:
    full, half = ready("full", slots=2, active=2), ready("half", slots=4, active=2)
    assert names(order([full, half], {})) == ["half", "full"]
    assert names(order([full, half], {"half": 9})) == ["full", "half"]  # ours, not announced yet
    assert names(order([ready("slow", tok_s=2.0), ready("fast", tok_s=9.0)], {})) == [
        *("fast", "slow")
    ]


def test_a_device_that_takes_nothing_is_left_out_and_a_degraded_one_comes_last() -> None:
    states = ("lost", "offline", "draining", "read_only", "starting", "")
    found = [ready(state or "new", state=state) for state in states]
    assert order(found, {}) == []
    assert order([Served("no-card", state="ready")], {}) == []
    hot = ready("hot", state="degraded")
    assert names(order([hot, ready("busy", state="busy", active=3, queue=5)], {})) == [
        *("busy", "hot")
    ]


def test_the_device_that_keeps_the_prefix_wins_unless_others_are_free_and_it_is_not() -> None:
    idle, keeper = ready("idle", slots=2), ready("keeper", slots=2, active=1)
    assert names(order([idle, keeper], {}, keeps="keeper")) == ["keeper", "idle"]
    full = ready("keeper", slots=2, active=2)
    assert names(order([idle, full], {}, keeps="keeper")) == ["idle", "keeper"]
    busy = ready("idle", slots=2, active=2)
    assert names(order([busy, full], {}, keeps="keeper")) == ["keeper", "idle"]
    assert names(order([idle, ready("gone", state="lost")], {}, keeps="gone")) == ["idle"]


def test_a_prompt_that_may_come_again_goes_by_its_id_whatever_the_load() -> None:
    devices = [ready(f"d{n}") for n in range(8)]
    firsts = set()
    for n in range(64):
        first = order(devices, {}, prompt_id=f"id-{n}")[0].name
        loaded = [ready(each.name, active=5 - i % 5) for i, each in enumerate(devices)]
        assert order(loaded[::-1], {}, prompt_id=f"id-{n}")[0].name == first
        others = [each for each in devices if each.name != "d0"]
        if first != "d0":  # one device less moves only the prompts that it had
            assert order(others, {}, prompt_id=f"id-{n}")[0].name == first
        firsts.add(first)
    assert len(firsts) > 5


def test_a_model_a_pool_and_a_device_are_named_apart() -> None:
    known = {
        "toy": Served("toy", "big", state="ready"),  # a device named like a model
        "pi": Served("pi", "toy", pools=("kitchen",), state="ready"),
        "off": Served("off", "toy", pools=("kitchen", "attic"), state="lost"),
    }
    assert names(named(known, "toy")) == ["pi", "off"]
    assert names(named(known, "device:toy")) == ["toy"]
    assert names(named(known, "pool:kitchen")) == ["pi", "off"]
    assert named(known, "") == named(known, "pool:none") == named(known, "pi") == []
    assert models(known) == ["big", "toy", "pool:kitchen", "device:pi", "device:toy"]
    assert catalog.why_none(named(known, "toy")) == "pi is `ready`, off is `lost`"


def test_retained_messages_make_the_catalog_and_nonsense_does_not() -> None:
    known: dict[str, Served] = {}
    heard(known, topics.card_topic("pi"), b'{"model":"toy","pools":["k"],"slots":3,"more":1}')
    heard(known, topics.status_topic("pi"), b'{"state":"busy","queue":2,"active":1}')
    assert known["pi"] == Served("pi", "toy", "", ("k",), 3, "busy", 2, 1)
    before = dict(known)
    for topic, payload in (
        (topics.card_topic("pi"), b'{"model":7}'),
        (topics.card_topic("pi"), b"\xff"),
        (topics.status_topic("pi"), b"[" * 100_000),
        (topics.metrics_topic("pi"), b'{"state":"lost"}'),
        ("edgekit/v1/dev/pi", b'{"model":"x"}'),
        ("other", b"{}"),
    ):
        heard(known, topic, payload)
        assert known == before, (topic, payload)
    heard(known, topics.status_topic("pi"), b'{"state":"lost"}')
    assert (known["pi"].queue, known["pi"].takes) == (0, False)
    heard(known, topics.status_topic("pi"), b"")
    heard(known, topics.card_topic("pi"), b"")
    assert known == {}


def test_the_catalog_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MOST_DEVICES", 3)
    known: dict[str, Served] = {}
    for n in range(9):
        heard(known, topics.card_topic(f"d{n}"), b'{"model":"toy"}')
    assert len(known) == 3


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_conversation_goes_back_to_the_device_that_answered_it() -> None:
    memory = Affinity()
    answer = {"role": "assistant", "content": "Hello."}
    memory.note("alice", [user("Hi")], answer, "pi-1")
    again: dict[str, Any] = {
        "content": "Hello.",
        "role": "assistant",
        "refusal": None,
        "tool_calls": [],
    }
    assert memory.device("alice", [user("Hi"), again, user("And?")]) == "pi-1"
    assert memory.device("alice", [user("Hi")]) == "pi-1"  # asked once more
    assert memory.device("alice", [user("Ho"), again, user("And?")]) == ""
    assert memory.device("bob", [user("Hi"), again, user("And?")]) == ""
    memory.note("alice", [user("Hi"), answer, user("And?")], answer, "pi-2")
    assert memory.device("alice", [user("Hi"), answer, user("And?"), answer, user("x")]) == "pi-2"


def test_the_memory_of_conversations_is_bounded() -> None:
    memory = Affinity(most=4)
    for n in range(5):
        memory.note("alice", [user(str(n))], msgspec.json.decode(b'{"content":"x"}'), "pi")
    assert memory.device("alice", [user("0")]) == ""
    assert memory.device("alice", [user("4")]) == "pi"


def test_a_prompt_goes_to_who_can_answer_it() -> None:
    known: dict[str, Served] = {}
    cards: dict[str, dict[str, Any]] = {
        "sees": {"images": {"crops": 1}}, "forms": {"capabilities": ["tools", "json_schema"]},
        "plain": {"capabilities": ["tools"]}, "old": {},
    }  # fmt: skip
    for name, more in cards.items():
        card = {"model": "toy", "version": "1", "pools": ["p"], **more}
        heard(known, topics.card_topic(name), msgspec.json.encode(card))
        heard(known, topics.status_topic(name), b'{"state":"ready"}')
    pool = named(known, "pool:p")
    assert names(catalog.able(pool, ())) == list(cards)
    assert names(catalog.able(pool, {"images"})) == ["sees"]
    assert names(catalog.able(pool, {"json_schema"})) == ["forms"]
    nobody = catalog.able(pool, {"regex"})
    assert names(nobody) == list(cards), "one of them says why not"


def picture(**more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}, **more}


@pytest.mark.parametrize(
    ("more", "needs"),
    [
        ({}, set()),
        ({"tools": [], "logprobs": True}, set()),
        ({"response_format": None, "regex": None}, set()),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": 7}, set()),
        ({"response_format": {"type": "json_object"}}, {"json_schema"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"regex": "a+"}, {"regex"}),
        ({"grammar": "start: a"}, {"grammar"}),
        ({"messages": [{"role": "user", "content": [picture()]}]}, {"images"}),
        ({"messages": [{"content": [picture()]}, {"role": "user", "content": "?"}]}, {"images"}),
        ({"messages": [7, {"content": [7, {"type": "text"}]}, {"content": picture()}]}, set()),
    ],
)
def test_what_a_body_needs(more: dict[str, Any], needs: set[str]) -> None:
    asked = {"model": "toy", "messages": [{"role": "user", "content": "Hi"}], **more}
    assert body.read(msgspec.json.encode(asked)).needs == needs

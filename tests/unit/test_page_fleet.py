"""What the page is told of the fleet: read from a broker's messages, and only what has changed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edgekit.agent.serve.session.events import Readings
from edgekit.agent.serve.session.metrics import Metrics, Now
from edgekit.agent.serve.session.presence import metrics_message
from edgekit.core.chat.completion import Usage
from edgekit.core.protocol import topics, wire
from edgekit.gateway.page import fleet, told

CARD = wire.Card(
    device="pi-1", release="sha256:" + "1" * 64, model="toy", version="3", context_length=1024,
    max_answer_tokens=512, queue_limit=8, agent="0.1", pools=("kitchen",), slots=2,
)  # fmt: skip


def hear(made: fleet.FleetTold, topic: str, body: bytes, now: float, **how: bool) -> None:
    made.heard(topic, body, now, fleet.slot(now), **how)


def say(
    made: fleet.FleetTold, state: str, now: float, device: str = "pi-1", *,
    retained: bool = False, **more: Any,
) -> None:  # fmt: skip
    body = json.dumps({"state": state, **more}).encode()
    hear(made, topics.status_topic(device), body, now, retained=retained)


@pytest.fixture
def made() -> fleet.FleetTold:
    watch = fleet.FleetTold()
    hear(watch, topics.card_topic("pi-1"), msgspec.json.encode(CARD), 1.0)
    return watch


def test_a_device_is_its_card_and_its_status(made: fleet.FleetTold) -> None:
    say(made, "busy", 7.0, active=2, queue=3, tok_s=9.5, temp_c=61, mem_free_mb=812)
    (found,) = made.changes().devices
    assert found["name"] == "pi-1"
    assert (found["model"], found["version"], found["pools"]) == ("toy", "3", ("kitchen",))
    assert (found["state"], found["active"], found["queue"]) == ("busy", 2, 3)
    assert (found["tok_s"], found["temp_c"], found["mem_free_mb"]) == (9.5, 61, 812)
    assert (found["heard"], found["heard_first"], found["since"]) == (7.0, 7.0, 0.0)
    say(made, "busy", 9.0, since=3, mem_total_mb=4000)
    (found,) = made.changes().devices
    assert (found["heard"], found["heard_first"], found["since"]) == (9.0, 7.0, 3.0)
    assert found["mem_total_mb"] == 4000


def test_only_what_has_changed_since_is_told_once(made: fleet.FleetTold) -> None:
    for name in ("pi-2", "pi-3"):
        say(made, "ready", 1.0, name)
    seen = made.changes().seen
    assert not made.changes(seen).devices
    for now in (2.0, 3.0, 4.0):
        say(made, "busy", now, "pi-2", queue=int(now))
    changes = made.changes(seen)
    assert [(each["name"], each["queue"]) for each in changes.devices] == [("pi-2", 4)]
    assert changes.gone == []
    assert not made.changes(changes.seen).devices


def test_a_device_that_was_forgotten_is_gone(made: fleet.FleetTold) -> None:
    say(made, "lost", 1.0)
    seen = made.changes().seen
    hear(made, topics.card_topic("pi-1"), b"", 2.0)
    assert [each["state"] for each in made.changes(seen).devices] == ["lost"]
    hear(made, topics.status_topic("pi-1"), b"", 3.0)
    changes = made.changes(seen)
    assert (changes.devices, changes.gone) == ([], ["pi-1"])
    assert made.changes().devices == []
    assert made.changes().gone == []  # a new watcher never knew it


def test_the_line_has_the_speed_of_each_slot_in_which_it_answered(made: fleet.FleetTold) -> None:
    start = 1000.0
    say(made, "ready", start, tok_s=8.0)  # what the broker kept: nobody knows when that was
    assert made.lines(fleet.slot(start + 5)) == {}
    say(made, "busy", start + 5, active=1, tok_s=8.0)
    say(made, "busy", start + 6, active=1, tok_s=11.0)
    say(made, "ready", start + 12, tok_s=9.0)  # a short answer between two statuses
    say(made, "ready", start + 17, tok_s=9.0)
    (line,) = made.lines(fleet.slot(start + 20)).values()
    assert line[-4:] == [0.0, 11.0, 9.0, 0.0]
    assert len(line) == fleet.SLOTS
    assert made.speeds(fleet.slot(start + 6)) == {"pi-1": 11.0}
    assert made.speeds(fleet.slot(start + 17)) == {}
    assert made.lines(fleet.slot(start + 20) + fleet.SLOTS) == {}


def test_what_the_broker_kept_or_says_itself_is_not_the_device_s_voice(
    made: fleet.FleetTold,
) -> None:
    say(made, "busy", 1000.0, retained=True, active=1, tok_s=8.0)
    (found,) = made.changes().devices
    assert (found["state"], found["heard"], found["heard_begin"]) == ("busy", 0.0, False)
    assert made.speeds(fleet.slot(1000.0)) == {}
    say(made, "ready", 1005.0, tok_s=8.0)
    (found,) = made.changes().devices
    assert (found["heard"], found["heard_first"], found["heard_begin"]) == (1005.0, 1005.0, True)
    say(made, "lost", 1010.0, tok_s=9.0)  # the Will, which says an old speed
    (found,) = made.changes().devices
    assert (found["state"], found["heard"], found["heard_first"]) == ("lost", 1005.0, 1010.0)
    assert made.speeds(fleet.slot(1010.0)) == {}
    assert made.lines(fleet.slot(1020.0)) == {}


def test_the_speeds_of_a_device_stay_bounded(made: fleet.FleetTold) -> None:
    for n in range(3 * fleet.SLOTS):
        say(made, "busy", n * fleet.SLOT_SECONDS, active=1, tok_s=8.0)
    (line,) = made.lines(3 * fleet.SLOTS).values()
    assert line == [8.0] * fleet.SLOTS
    assert made.speeds(fleet.SLOTS) == {}


def test_the_counts_are_those_of_an_agents_own_metrics(made: fleet.FleetTold) -> None:
    metrics = Metrics("toy", "3", "sha256:1", "0.1")
    metrics.used(Usage(10, 20, 30))
    metrics.used(Usage(1, 2, 3))
    metrics.ended(0.5, "")
    metrics.ended(0.5, "internal")
    metrics.rejected["queue_full"] += 4
    message = metrics_message("pi-1", metrics.families(Now(0, 0, 0, Readings(None, None))))
    hear(made, message.topic, message.payload, 5.0)
    (found,) = made.changes().devices
    assert found["counts"] == {
        "prompts": 2, "failed": 1, "tokens_in": 11, "tokens_out": 22, "rejected": 4,
        "worker_restarts": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [
        b"{", b"[]", b'{"state": 5}', b'{"state": "ready", "queue": "many"}', b"\xff", b"[" * 9999,
        b'{"state": "ready", "queue": 1e400}', b'{"state":"x","tok_s":NaN}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_changes_nothing(made: fleet.FleetTold, payload: bytes) -> None:
    seen = made.changes().seen
    hear(made, topics.status_topic("pi-1"), payload, 2.0)
    hear(made, topics.status_topic("pi-2"), payload, 2.0)
    assert made.changes(seen).devices == []


def test_texts_of_strangers_are_cut(made: fleet.FleetTold) -> None:
    card = {"model": "m" * 10_000, "pools": ["p" * 10_000] * 1000}
    hear(made, topics.card_topic("pi-1"), json.dumps(card).encode(), 2.0)
    (found,) = made.changes().devices
    assert len(json.dumps(found)) < 10_000
    assert found["model"] == "m" * told.MOST_CHARS


def test_other_topics_are_none_of_its_business(made: fleet.FleetTold) -> None:
    seen = made.changes().seen
    for topic in (topics.update_topic("pi-1"), "edgekit/v1/dev/pi-1", "home/pi-1/status", ""):
        hear(made, topic, b'{"state": "ready"}', 2.0)
    assert made.changes(seen).devices == []


def test_many_names_that_come_and_go_hide_no_device(
    made: fleet.FleetTold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MOST_DEVICES", 4)
    say(made, "lost", 1.0)
    for n in range(50):
        say(made, "ready", 1.0, f"pi-{n + 2}")
        hear(made, topics.status_topic(f"pi-{n + 2}"), b"", 1.0)
    assert [each["name"] for each in made.changes().devices] == ["pi-1"]


def test_there_is_room_for_a_bounded_number_of_devices(
    made: fleet.FleetTold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MOST_DEVICES", 2)
    for n in range(9):
        say(made, "ready", 1.0, f"pi-{n}")
        say(made, "", 1.0, f"pi-{n}")
    assert len(made.changes().devices) <= 2

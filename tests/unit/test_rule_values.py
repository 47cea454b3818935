"""`[rules.NAME]`: what a rule may be, what a fleet may not have, and how old agents read it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.core.config import (
    AgentConfig,
    BrokerConfig,
    agent_config,
    encode_agent_config,
    known_settings,
    parse_agent_config,
    parse_known_agent_config,
    settings_in,
    used_settings,
)
from edgekit.core.rules.check import check_loops, request_of
from edgekit.core.rules.filters import TopicTree, check_filter, check_topic, matches, overlap
from edgekit.core.rules.rule import Rule
from edgekit.errors import UsageError
from edgekit.fleet import inventory

DOOR: dict[str, Any] = {"topic_filter": "plant/{device}/door", "prompt": "{{ message.state }}"}


def rule(**changes: Any) -> Rule:
    return Rule(**(DOOR | {"topic_filter": "plant/door"} | changes))


# --- topics -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("topic_filter", "topic", "told"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/#", "a", True),  # §4.7.1.2
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("+/+", "/finance", True),
        ("+", "/finance", False),
        ("+/b/#", "a/b", True),
        ("+/b/#", "a/c", False),
    ],
)
def test_a_filter_matches_as_the_standard_says(topic_filter: str, topic: str, told: bool) -> None:
    assert matches(topic_filter, topic) is told
    assert bool(TopicTree([topic]).find(topic_filter)) is told


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("a/+", "+/b", True),
        ("a/+", "b/+", False),
        ("a/#", "+/+/c", True),
        ("+", "a/#", True),
        ("+/x", "a/#", True),
        ("a/b", "a/#", True),
        ("a/+/c", "a/b/d", False),
        ("+", "+/+", False),
    ],
)
def test_filters_overlap(one: str, other: str, told: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is told


@pytest.mark.parametrize(
    "text", ["", "a+/b", "a/#/b", "a#", "$SYS/load", "$share/g/a", "a\0b", "a/%u", " a"]
)
def test_a_bad_filter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        check_filter(text)


@pytest.mark.parametrize(
    "text", ["", "a/+", "a/#", "$SYS/a", "a\nb", "/".join("a" * 33), "a" * 513]
)
def test_a_bad_topic_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        check_topic(text)


# --- one rule ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"topic_filter": "#"}, "hears edgekit's own"),
        ({"topic_filter": "edgekit/door"}, "hears edgekit's own"),
        ({"topic_filter": "edgekit/v1/dev/+/status"}, "hears edgekit's own"),
        ({"topic_filter": "+/v1/res/#"}, "hears edgekit's own"),
        ({"publish": "plant/door"}, "hears itself"),
        ({"topic_filter": "plant/#", "publish": "plant/said"}, "hears itself"),
        ({"publish": "a/+"}, "wildcard"),
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "x" * 20000}, "more than 16384 characters"),
        ({"per_minute": 0}, "per_minute"),
        ({"window_seconds": -1}, "window_seconds"),
        ({"window_messages": 0}, "window_messages"),
        ({"window_messages": 257}, "window_messages"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"repeat_seconds": 1e6}, "repeat_seconds"),
    ],
)
def test_a_rule_that_is_wrong_says_why(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        rule(**changes)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"a": rule(publish="edgekit/v1/res/alice/x")}, "below edgekit/ only edgekit/v1/rule/pi/a"),
        ({"a": rule(publish="edgekit/v1/rule/pi/ab")}, "only edgekit/v1/rule/pi/a"),
        ({"a": rule(publish="edgekit/v1/rule/other/a")}, "only edgekit/v1/rule/pi/a"),
        (
            {"a": rule(publish="said/a"), "b": rule(topic_filter="said/+")},
            "rule b hears what rule a",
        ),
        ({"a": rule(), "b": rule(topic_filter="+/door")}, "overlap"),
        ({"a b": rule()}, "not a name"),
        ({f"r{n}": rule() for n in range(33)}, "at most 32"),
    ],
)
def test_rules_of_a_device_that_do_not_go_together_say_why(
    rules: dict[str, Rule], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        AgentConfig("pi", rules=rules)


@pytest.mark.parametrize("told", ["+/door", "+/+/door", "+/+/+/door", "plant/#", "a/+/+/+/+"])
def test_a_filter_that_no_topic_of_the_protocol_matches_is_taken(told: str) -> None:
    assert rule(topic_filter=told).topic_filter == told


def test_rules_may_share_a_filter_and_publish_below_their_own_topic() -> None:
    AgentConfig("pi", rules={"a": rule(), "b": rule(publish="edgekit/v1/rule/pi/b/loud")})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"body": {"temprature": 0}}, "temprature"),
        ({"body": {"temperature": 9}}, "temperature"),
        ({"body": {"messages": []}}, "body.messages is not for a rule"),
        ({"body": {"tools": []}}, "body.tools is not for a rule"),
        ({"body": {"response_format": {}}}, "a key of the rule itself"),
        ({"response_format": {"type": "poem"}}, "response_format"),
    ],
)
def test_a_rule_s_prompt_is_checked_like_any_prompt(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        request_of("door", rule(**changes))
    assert why in f"{caught.value.what} {caught.value.why}"
    assert "door" in caught.value.what


def test_a_rule_s_prompt_has_its_fields() -> None:
    read = request_of("door", rule(system="Be brief.", body={"temperature": 0, "max_tokens": 9}))
    assert [m.role for m in read.messages] == ["system", "user"]
    assert (read.temperature, read.answer_limit, read.stream) == (0, 9, False)


# --- a fleet ----------------------------------------------------------------------------------
def load(folder: Path, tables: dict[str, object]) -> inventory.Fleet:
    path = folder / "fleet.toml"
    path.write_bytes(msgspec.toml.encode(tables))
    return inventory.load(path)


def test_rules_come_from_the_file_the_groups_and_the_device(tmp_path: Path) -> None:
    fleet = load(
        tmp_path,
        {
            "rules": {"door": DOOR},
            "groups": {"hot": {"members": ["b", "c"], "rules": {"heat": DOOR | {"system": "g"}}}},
            "devices": {
                "a": {"address": "ssh:a"},
                "b": {"address": "ssh:b"},
                "c": {"address": "ssh:c", "rules": {"heat": DOOR, "door": DOOR | {"system": "c"}}},
            },
        },
    )
    told = {name: fleet.devices[name].rules for name in "abc"}
    assert {name: sorted(rules) for name, rules in told.items()} == {
        "a": ["door"],
        "b": ["door", "heat"],
        "c": ["door", "heat"],
    }
    assert (told["b"]["heat"].system, told["c"]["heat"].system) == ("g", "")
    assert (told["b"]["door"].system, told["c"]["door"].system) == ("", "c")
    config = agent_config("b", BrokerConfig(), fleet.devices["b"])
    assert config.rules["door"].topic_filter == "plant/b/door"
    assert config.rules["door"].output("b", "door") == "edgekit/v1/rule/b/door"
    assert parse_agent_config(encode_agent_config(config)) == config


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"door": DOOR | {"prompt": "{{ mesage }}"}}, "mesage"),
        ({"door": DOOR | {"prompt": "{% if %}"}}, "no template"),
        ({"door": DOOR | {"topic": "a"}}, "unknown field `topic`"),
        ({"door": {"prompt": "a"}}, "topic_filter"),
        ({"door": DOOR | {"when_full": "wait"}}, "when_full"),
        ({"door": DOOR | {"body": {"seed": "x"}}}, "seed"),
        ({"d/r": DOOR}, "a name is"),
    ],
)
def test_a_wrong_rule_is_refused_on_the_controller_by_name(
    rules: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {"rules": rules, "devices": {"a": {"address": "ssh:a"}}})
    assert why in str(caught.value)
    assert str(tmp_path / "fleet.toml") in caught.value.what
    assert next(iter(rules)) in str(caught.value)


def test_a_rule_that_hears_another_device_s_answers_is_refused(tmp_path: Path) -> None:
    ring = {
        "a": {"address": "ssh:a", "rules": {"one": DOOR | {"publish": "said/{device}"}}},
        "b": {"address": "ssh:b", "rules": {"two": DOOR | {"topic_filter": "said/a"}}},
    }
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {"devices": ring})
    assert "rule two of b hears what rule one of a publishes" in caught.value.what
    ring["b"]["rules"]["two"]["topic_filter"] = "said/b"  # type: ignore[index]  # a plain dict
    load(tmp_path, {"devices": ring})


def test_loops_are_looked_for_in_a_large_fleet_in_no_time() -> None:
    one = Rule(topic_filter="plant/{device}/in", prompt="x", publish="plant/{device}/out")
    fleet = {f"d{n}": {"r": one.on(f"d{n}")} for n in range(5000)}
    began = time.process_time()
    check_loops(fleet)
    assert time.process_time() - began < 2
    with pytest.raises(UsageError, match=r"rule r of e hears what rule r of d\d+ publishes"):
        check_loops(fleet | {"e": {"r": Rule(topic_filter="plant/+/out", prompt="x", publish="z")}})


# --- agents of other versions -----------------------------------------------------------------
def test_an_agent_s_settings_name_each_key_of_a_rule() -> None:
    config = AgentConfig("pi", rules={"a": rule(), "b": rule(system="s")})
    used = {"device", "rules", "rules.topic_filter", "rules.prompt", "rules.system"}
    assert used_settings(config) == settings_in(encode_agent_config(config)) == used
    assert used <= known_settings()
    assert {f"rules.{name}" for name in Rule.__struct_fields__} < known_settings()


def test_an_older_agent_reads_around_a_key_of_a_rule_that_it_does_not_know() -> None:
    text = encode_agent_config(AgentConfig("pi", rules={"a": rule()}))
    newer = text.replace(b'prompt = "', b'mood = "grim"\nprompt = "')
    assert parse_known_agent_config(newer).rules == {"a": rule()}
    with pytest.raises(UsageError, match=r"agent\.toml"):
        parse_agent_config(newer)

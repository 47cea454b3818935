"""What a support bundle leaves out."""

from __future__ import annotations

import json

from edgekit.core.config import AgentConfig, BrokerConfig, PullConfig, encode_agent_config
from edgekit.core.rules.rule import Rule
from edgekit.fleet.support.blank import BLANK, answer, config, journal, log

SECRET = "Zitronenfalter"


def test_agent_toml_keeps_what_it_knows_and_no_secret() -> None:
    rule = Rule(topic_filter=f"{SECRET}/t", prompt=SECRET, system=SECRET, per_minute=3.0)
    told = AgentConfig(
        device="pi-1",
        broker=BrokerConfig("broker.lan", 1884, SECRET, "/etc/password"),
        pull=PullConfig(registry="https://host/x", username=SECRET, password_file="/p"),
        threads=3,
        rules={"hot": rule},
    )
    text = encode_agent_config(told).decode()
    text = f'secret_of_tomorrow = "{SECRET}"\n{text}'.replace(
        "[broker]", f'[broker]\ntoken = "{SECRET}"'
    )
    shown = config(text)
    assert SECRET not in json.dumps(shown)
    assert shown["broker"] == {
        "token": BLANK, "host": "broker.lan", "port": 1884, "username": BLANK,
        "password_file": "/etc/password",
    }  # fmt: skip
    assert (shown["threads"], shown["secret_of_tomorrow"]) == (3, BLANK)
    assert shown["rules"]["hot"] == {"topic_filter": BLANK, "prompt": BLANK, "system": BLANK,
                                     "per_minute": 3.0}  # fmt: skip
    assert config("no = toml = ") == {}
    assert config(f'rules = "{SECRET}"\n') == {"rules": BLANK}


def test_of_the_log_only_edgekit_s_own_lines_stay() -> None:
    own = [
        "2026-11-30 08:00:00,123 edgekit.agent.serve.loop.service: model ready",
        "2026-11-30T08:00:00+0000 supervisor: the agent ended with 1",
        "boot: the agent's log is /root/log/agent.log",
        "Traceback (most recent call last):",
        '  File "/root/current/agent/edgekit/x.py", line 3, in run',
    ]
    assert log(own) == own
    others = [SECRET, f"print: {SECRET}", f"    raise ValueError({SECRET!r})",
              f"2026-11-30 08:00:00,123 other: {SECRET}",
              f'  File "x", line 1, in {SECRET} and more']  # fmt: skip
    assert not [line for line in log(others) if SECRET in line]
    assert log([f"ValueError: {SECRET}", f"msgspec.ValidationError: {SECRET}"]) == [
        f"ValueError: {BLANK}", f"msgspec.ValidationError: {BLANK}",
    ]  # fmt: skip


def test_of_an_empty_log_nothing_stays() -> None:
    assert log([]) == []


def test_a_line_that_begins_like_an_error_of_a_verb_is_not_one_yet() -> None:
    error = ["serve: the agent cannot start", f"  why:  {SECRET}", "  next: push again"]
    assert log(error)[0] == error[0]
    assert SECRET not in str(log(error))
    others = [f"{verb}: {SECRET}" for verb in ("worker", "update", "serve", "boot")]
    assert SECRET not in str(log(others))
    assert SECRET not in str(log([f"boot: the agent's log is /x {SECRET}"]))
    assert SECRET not in str(answer({"why": f"its log ends with: {SECRET}"})), "one line alone"


def test_of_the_journal_only_the_manager_s_lines_stay() -> None:
    own = "2026-11-30T08:00:00+0000 pi systemd[1]: edgekit-agent.service: Failed"
    assert journal([own]) == [own]
    assert SECRET not in journal([f"2026-11-30T08:00:00+0000 pi python3[7]: {SECRET}"])[0]


def test_a_reason_with_the_end_of_the_log_is_cut_like_the_log() -> None:
    known = "2026-11-30 08:00:00,123 edgekit.agent: well"
    told = {"releases": [{"reason": f"the agent ended: {SECRET} | {known} | {SECRET}"}], "n": 3}
    shown = answer(told)
    assert SECRET not in json.dumps(shown)
    assert known in shown["releases"][0]["reason"]
    for why in (
        f"release x failed: the agent ended within the soak of 5 s: {SECRET}",
        f"a | {SECRET}",
    ):
        assert SECRET not in answer(why)
    assert answer({"why": "it passed its trial"}) == {"why": "it passed its trial"}


def test_what_is_deeper_than_anything_of_ours_is_left_out() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    shown = str(answer({"metrics": deep, "status": {"state": "ready"}}))
    assert len(shown) < 200
    assert BLANK in shown
    assert "'state': 'ready'" in shown

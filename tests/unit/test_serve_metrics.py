"""What is counted, read back by Prometheus' own parser, and who is given it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from edgekit.agent.serve.loop import exporter
from edgekit.agent.serve.loop.exporter import Exporter
from edgekit.agent.serve.pipe import Ready, Refused
from edgekit.agent.serve.session.events import Readings, WorkerLost
from edgekit.agent.serve.session.metrics import Metrics, Now
from edgekit.core.chat.completion import PromptTokensDetails, Timings, Usage
from edgekit.core.config import parse_agent_config
from edgekit.core.protocol.exposition import CONTENT_TYPE, as_json, prometheus
from edgekit.core.rules.rule import Rule
from edgekit.errors import UsageError
from tests import tools
from tests.harness.session import Agent, done

CHAT = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "edgekit",
    "gen_ai_request_model": "smollm2",
}
# OpenTelemetry, gen-ai-metrics.md
BOUNDS = {
    "gen_ai_server_request_duration_seconds": "0.01 0.02 0.04 0.08 0.16 0.32 0.64 1.28 2.56 5.12 "
    "10.24 20.48 40.96 81.92",
    "gen_ai_server_time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 "
    "0.5 0.75 1.0 2.5 5.0 7.5 10.0",
    "gen_ai_server_time_per_output_token_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 "
    "0.75 1.0 2.5",
    "gen_ai_client_token_usage": "1 4 16 64 256 1024 4096 16384 65536 262144 1048576 4194304 "
    "16777216 67108864",
}
KINDS = dict.fromkeys(BOUNDS, "histogram") | {
    "edgekit_queue_depth": "gauge",
    "edgekit_running": "gauge",
    "edgekit_rejected": "counter",
    "edgekit_ignored": "counter",
    "edgekit_prefix_cached_tokens": "counter",
    "edgekit_worker_restarts": "counter",
    "edgekit_rule_messages": "counter",
    "edgekit_soc_temp_celsius": "gauge",
    "edgekit_mem_free_bytes": "gauge",
    "edgekit_build_info": "gauge",
}


def scraped(agent: Agent) -> dict[str, Metric]:
    text = prometheus(agent.snapshot().metrics).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """Of the one sample with that name and those labels at least."""
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def working_agent() -> Agent:
    """It has answered one prompt, refused one, cancelled one, failed one, and lost its worker."""
    rule = Rule(topic_filter="plant/door", prompt="{{ message }}")
    agent = Agent(queue_limit=1, rules={"door": rule}).ready()
    agent.hears(b"no JSON")
    agent.handle(Readings(51, 2048))
    agent.prompt("p1")  # runs
    agent.now += 2.0
    agent.prompt("p2")  # waits 1 s
    assert agent.prompt("p3")  # is refused
    agent.prompt("", response_topic="elsewhere")  # is ignored
    agent.now += 1.0
    usage = Usage(40, 5, 45, PromptTokensDetails(16))
    timings = Timings(0.0, 400.0, 500.0, 2500.0, 2.0)
    agent.handle(msgspec.structs.replace(done("alice/p1"), usage=usage, timings=timings))
    agent.cancel("p2")
    agent.handle(done("alice/p2", "cancelled", 0))
    agent.handle(WorkerLost())
    agent.handle(Ready(1.0, 1.0))
    agent.prompt("p4")
    agent.handle(Refused("alice/p4", "context_length_exceeded", "too long", "messages"))
    agent.prompt("p5")
    agent.prompt("p6")
    return agent


def test_the_names_kinds_units_and_buckets_are_those_of_the_conventions() -> None:
    families = scraped(working_agent())
    assert {name: family.type for name, family in families.items()} == KINDS
    for name, bounds in BOUNDS.items():
        for le in (bound for bound in (*bounds.split(), "+Inf")):
            assert [s for s in families[name].samples if s.labels.get("le") == le], (name, le)
        buckets = {s.labels["le"] for s in families[name].samples if s.name == f"{name}_bucket"}
        assert buckets == {*bounds.split(), "+Inf"}
        assert all(CHAT.items() <= s.labels.items() for s in families[name].samples)
    assert all(family.documentation for family in families.values())


def test_what_happened_is_what_is_counted() -> None:
    families = scraped(working_agent())
    duration = "gen_ai_server_request_duration_seconds"
    done_well = [s for s in families[duration].samples if "error_type" not in s.labels]
    assert {s.name.removeprefix(duration): s.value for s in done_well if "le" not in s.labels} == {
        "_count": 1,
        "_sum": 3.0,
    }
    assert {s.labels["le"] for s in done_well if s.value and "le" in s.labels} == {
        *("5.12", "10.24", "20.48", "40.96", "81.92", "+Inf")
    }
    for error, seconds in (("cancelled", 1.0), ("context_length_exceeded", 0.0)):
        assert value(families, f"{duration}_count", error_type=error) == 1
        assert value(families, f"{duration}_sum", error_type=error) == seconds
    assert value(families, "gen_ai_server_time_to_first_token_seconds_sum") == 0.5
    # (3 s - 0.5 s) / 4 tokens after the first
    assert value(families, "gen_ai_server_time_per_output_token_seconds_sum") == 0.625
    tokens = "gen_ai_client_token_usage_sum"
    assert value(families, tokens, gen_ai_token_type="input") == 40 + 4
    assert value(families, tokens, gen_ai_token_type="output") == 5
    assert value(families, "edgekit_prefix_cached_tokens_total") == 16
    assert value(families, "edgekit_queue_depth") == 1
    assert value(families, "edgekit_running") == 1
    assert value(families, "edgekit_rejected_total", code="queue_full") == 1
    assert value(families, "edgekit_ignored_total") == 1
    assert value(families, "edgekit_worker_restarts_total") == 1
    assert value(families, "edgekit_soc_temp_celsius") == 51
    assert value(families, "edgekit_mem_free_bytes") == 2 << 30
    build = {"agent": "a1", "release": "sha256:r", "model": "smollm2", "version": "1"}
    assert value(families, "edgekit_build_info", **build) == 1


def test_a_time_to_the_first_token_counts_the_queue_and_a_beam_search_has_no_time_per_token() -> (
    None
):
    metrics = Metrics("m", "1", "r", "a")
    metrics.answered(3.0, Timings(1000.0, 100.0, 200.0, 1900.0, 2.0), 4)
    assert metrics.first_token.total == pytest.approx(1.2)
    assert metrics.per_token.total == pytest.approx(0.6)
    metrics.answered(3.0, Timings(0.0, 100.0, 3000.0, 2900.0, 2.0), 4)  # a beam search
    metrics.answered(3.0, Timings(0.0, 0.0, 0.0, 0.0, 0.0), 0)  # no token at all
    assert sum(metrics.first_token.counts) == 2
    assert sum(metrics.per_token.counts) == 1


def test_what_is_not_known_is_left_out_and_a_label_cannot_break_a_line() -> None:
    odd = 'a"b\\nc\nd'  # a backslash and an n, then an end of line
    families = Metrics(odd, "1", "r", "a").families(Now(0, 0, 0, Readings(None, None)))
    read = list(text_string_to_metric_families(prometheus(families).decode()))
    samples = {s.name: s for family in read for s in family.samples}
    assert "edgekit_soc_temp_celsius" not in samples
    assert "edgekit_mem_free_bytes" not in samples
    assert samples["edgekit_build_info"].labels["model"] == odd
    assert "edgekit_soc_temp_celsius" not in json.loads(as_json(families))


def test_the_topic_has_the_same_counters_and_no_word_of_anybody() -> None:
    agent = working_agent()
    body = json.loads(as_json(agent.snapshot().metrics))
    families = scraped(agent)
    for name, found in body.items():
        for sample in found if isinstance(found, list) else [{"labels": {}, "value": found}]:
            labels = sample["labels"]
            if "value" in sample:
                assert value(families, name, **labels) == sample["value"]
                continue
            same = [s for s in families[name].samples if s.labels.keys() - {"le"} == labels.keys()]
            of = {s.name: s.value for s in same if s.labels == labels}
            assert (of[f"{name}_count"], of[f"{name}_sum"]) == (sample["count"], sample["sum"])
            assert {
                s.labels["le"]: s.value
                for s in same
                if labels.items() <= s.labels.items() and "le" in s.labels
            } == sample["buckets"]
    assert len(body) == len(KINDS)
    for text in (prometheus(agent.snapshot().metrics), as_json(agent.snapshot().metrics)):
        assert not [word for word in (b"Hi", b"Hello", b"alice", b"p1") if word in text]


# --- on loopback ------------------------------------------------------------------------------
@contextmanager
def served(text: bytes = b"edgekit_running 1\n") -> Iterator[int]:
    """The port of an exporter whose loop turns."""
    port = tools.free_port()
    asked, stop = Exporter(port), threading.Event()

    def loop() -> None:
        while not stop.wait(0.02):
            asked.answer(lambda: text)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join()


def get(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        return error.code, "", error.read()


def test_get_metrics_is_served_on_loopback_and_nothing_else() -> None:
    with served() as port:
        assert get(port) == (200, CONTENT_TYPE, b"edgekit_running 1\n")
        assert get(port, "/")[0] == 404
        assert get(port, "/metrics/../etc/passwd")[0] == 404
        assert get(port, method="POST")[0] == 501
        assert get(port, "/metrics?name[]=up")[0] == 200, "a scraper may have parameters"
        for target, status in (
            ("http://x/metrics", 200),
            ("HTTP://[::1]:9/metrics?a=b", 200),
            ("http://x/metrics/more", 404),
            ("http://u@x/metrics", 404),
            ("http:///metrics", 404),
            ("http://x", 404),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: y\r\n\r\n".encode())
                assert int(client.recv(4096).split()[1]) == status, target
        assert get(port)[0] == 200
        listening = f":{port:04X} 00000000:0000 0A"  # state LISTEN in proc_net_tcp(5)
        with open("/proc/net/tcp") as tcp:  # noqa: PTH123  no file of ours
            (line,) = [line for line in tcp if listening in line]
        assert "0100007F" in line


def test_somebody_who_sends_slowly_does_not_hold_the_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "REQUEST_SECONDS", 0.5)
    with served() as port, socket.create_connection(("127.0.0.1", port)) as slow:
        stop = threading.Event()

        def drip() -> None:
            try:
                while not stop.wait(0.1):
                    slow.send(b"G")
            except OSError:
                return

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        assert get(port)[0] == 200
        assert time.monotonic() - began < 4.0
        stop.set()
        thread.join()


def test_a_client_that_says_nothing_holds_the_others_no_longer_than_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "REQUEST_SECONDS", 1.0)
    with served() as port, socket.create_connection(("127.0.0.1", port)) as silent:
        silent.settimeout(10)
        began = time.monotonic()
        assert get(port)[0] == 200
        assert 0.5 < time.monotonic() - began < 4.0  # it was served after the silent one
        assert silent.recv(1) == b""  # which was cut off
        assert get(port)[0] == 200
        assert time.monotonic() - began < 4.0


def test_a_client_that_goes_away_in_the_middle_does_not_hold_the_metrics() -> None:
    with served() as port:
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.send(b"GET /metr")
        began = time.monotonic()
        assert get(port)[0] == 200
        assert time.monotonic() - began < 4.0


def test_a_request_whose_head_never_ends_is_cut() -> None:
    with served() as port, socket.create_connection(("127.0.0.1", port)) as endless:
        endless.settimeout(10)
        endless.send(b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * exporter.MAX_HEAD_BYTES)
        with suppress(OSError):  # reset, because it has not been read to its end
            while endless.recv(4096):
                pass
        assert get(port)[0] == 200


def test_no_request_takes_a_thread() -> None:
    with served() as port:
        assert get(port)[0] == 200
        before = set(threading.enumerate())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.send(b"GET /metrics HTTP/1.0\r\n")
            time.sleep(0.3)  # the server has taken it and waits for the rest
            assert set(threading.enumerate()) == before
            client.send(b"\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.0 200")
        assert set(threading.enumerate()) == before


def test_a_loop_that_is_stuck_shows_as_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "ANSWER_SECONDS", 0.2)
    port = tools.free_port()
    stuck = Exporter(port)
    for _ in range(2 * exporter.MAX_ASKED):
        assert get(port)[0] == 503
    assert len(stuck._asked) == exporter.MAX_ASKED
    stuck.answer(lambda: b"late")


def test_a_port_that_is_taken_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with served() as port:
        Exporter(port)
    assert f"no metrics on 127.0.0.1:{port}" in caplog.text


def test_without_a_port_nothing_is_loaded() -> None:
    program = (
        "import sys; from edgekit.agent.serve.loop.exporter import Exporter;"
        " Exporter(0); print('http' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match="not valid"):
        parse_agent_config(f'device = "pi"\nmetrics_port = {port}\n'.encode())

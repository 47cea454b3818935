"""`edgekit ask` as a program: what comes on standard input, which signals end it, and without a
project. The device is a few lines; the brokers are real."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from edgekit.client.announced import retain
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from tests import tools
from tests.commands import edgekit
from tests.contract.clients import WAIT_SECONDS
from tests.contract.test_requester import Device, delta

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tools.mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker.port


@contextmanager
def device(port: int, answer: Callable[..., None]) -> Iterator[Device]:
    with closing(Device(port, "pi", "p", answer)) as made:
        yield made


@contextmanager
def slow(port: int, bytes_per_second: int) -> Iterator[int]:
    """A port that leads to the broker, and brings what it says no faster than that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                client, _ = listener.accept()
                with client, socket.create_connection(("127.0.0.1", port)) as server:
                    up = threading.Thread(target=pump, args=[client, server, 0.0], daemon=True)
                    up.start()
                    pump(server, client, 1 / bytes_per_second)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def pump(source: socket.socket, target: socket.socket, seconds_per_byte: float) -> None:
    with suppress(OSError):
        while data := source.recv(6000):
            target.sendall(data)
            time.sleep(len(data) * seconds_per_byte)


def echo(device: Device, message: wire.Inbound) -> None:
    """Answer with the prompt's text, as JSON."""
    if not topics.is_control(message.topic):
        device.final(message, json.dumps(json.loads(message.payload)["messages"][-1]["content"]))


def starts(device: Device, message: wire.Inbound) -> None:
    """Begin an answer that does not end."""
    if not topics.is_control(message.topic):
        device.reply(message, "accepted", {"position": 0})
        device.reply(message, "delta", delta("Once"))


def ask(
    folder: Path, port: int, *arguments: str | bytes, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `ask` in a folder without a project."""
    return subprocess.run(
        [*edgekit("ask", "pi"), *arguments, "--broker", f"127.0.0.1:{port}"],
        cwd=folder,
        input=stdin,
        env=os.environ | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_standard_input_is_the_prompt_without_its_final_newline(port: int, tmp_path: Path) -> None:
    """No project is needed: the broker is named."""
    with device(port, echo):
        done = ask(tmp_path, port, "-", stdin=b"H\xc3\xa9\n\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "Hé\n"


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"PYTHONUTF8": "0"}])
def test_latin_1_on_standard_input_is_an_error_and_no_traceback(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = ask(tmp_path, tools.free_port(), "-", stdin=b"caf\xe9", **environment)
    assert done.returncode == 2, done.stderr
    assert b"not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_argument_that_is_no_text_is_refused(tmp_path: Path) -> None:
    done = ask(tmp_path, tools.free_port(), "Hi", "--system", b"\xff")
    assert done.returncode == 2, done.stderr
    assert b"--system is not UTF-8 text" in done.stderr


def test_an_answer_that_the_terminal_cannot_show_is_no_traceback(port: int, tmp_path: Path) -> None:
    def smile(device: Device, message: wire.Inbound) -> None:
        device.final(message, "Café ☕")

    with device(port, smile):
        done = ask(tmp_path, port, "Hi", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Café ?\n".encode("latin-1")


def test_a_deadline_out_of_bounds_is_refused(port: int, tmp_path: Path) -> None:
    done = ask(tmp_path, port, "Hi", "--expiry", "3601")
    assert done.returncode == 2
    assert b"1 to 3600 seconds" in done.stderr


# --- without a project ------------------------------------------------------------------------
def test_without_a_project_and_a_broker_it_says_what_is_missing(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "EDGEKIT_BROKER"}
    done = subprocess.run(
        edgekit("ask", "pi", "Hi"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"no edgekit.toml" in done.stderr


def test_devices_needs_no_project_where_a_broker_is_named(port: int, tmp_path: Path) -> None:
    with device(port, echo):
        done = subprocess.run(
            edgekit("devices", "--json"),
            cwd=tmp_path,
            env=os.environ | {"EDGEKIT_BROKER": f"127.0.0.1:{port}"},
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pi"]["status"]["state"] == "ready"


def devices(folder: Path, port: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        edgekit("devices", "--broker", f"127.0.0.1:{port}"),
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_devices_lists_all_where_another_program_has_written_cards(
    port: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The first of them ended the list in a traceback; so did a terminal without its letters."""
    odd = {
        topics.card_topic("a"): b'{"release":5,"model":{"a":1}}',
        topics.status_topic("a"): b'{"tok_s":"fast\\u001b[2J","state":["x"]}',
        topics.card_topic("b\u20ac"): b'{"release":null}',
        topics.status_topic("b\u20ac"): b'{"tok_s":null}',
    }
    broker = BrokerConfig("127.0.0.1", port)
    retain(broker, "other", odd)
    try:
        with device(port, echo):
            done = devices(tmp_path, port, **environment)
    finally:
        retain(broker, "other", dict.fromkeys(odd, b""))
    assert done.returncode == 0, done.stderr
    a, b, pi = done.stdout.splitlines()
    assert a.startswith(b"a  ['x']  ")
    assert b"\x1b" not in a
    assert b.startswith(b"b?  ?  " if environment else "b\u20ac  ?  ".encode())
    assert pi.startswith(b"pi  ready  ")


def test_devices_waits_for_what_a_slow_connection_brings(port: int, tmp_path: Path) -> None:
    """It listed what had come within half a second, as if that were all."""
    broker = BrokerConfig("127.0.0.1", port)
    cards = {topics.card_topic(f"n{n}"): b'{"model":"%s"}' % (b"m" * 3000) for n in range(40)}
    retain(broker, "other", cards)
    try:
        with slow(port, bytes_per_second=60_000) as behind:
            done = devices(tmp_path, behind)
    finally:
        retain(broker, "other", dict.fromkeys(cards, b""))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(cards)


# --- a device that is gone --------------------------------------------------------------------
@pytest.mark.parametrize("state", ["lost", "offline"])
def test_a_device_that_is_lost_is_said_to_be(port: int, tmp_path: Path, state: str) -> None:
    gone = Device(port, "pi", "p", echo)
    gone.announce(json.dumps({"state": state}).encode())
    gone.mqtt.close()
    began = time.monotonic()
    done = ask(tmp_path, port, "Hi")
    assert done.returncode == 1
    assert f"its status is `{state}`" in done.stderr.decode()
    assert time.monotonic() - began < 14  # at once, not after attempts
    with device(port, echo):
        """It takes its status back."""


# --- signals ----------------------------------------------------------------------------------
def start(folder: Path, port: int, *before: str) -> subprocess.Popen[bytes]:
    with tools.interruptible():
        return subprocess.Popen(
            [
                *(*before, sys.executable, "-m", "edgekit", "ask", "pi", "Hi"),
                *("--broker", f"127.0.0.1:{port}"),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def heard(device: Device) -> list[dict[str, Any]]:
    """The controls that came."""
    controls: list[dict[str, Any]] = []
    while True:
        try:
            message = device.heard.get(timeout=0.7)
        except queue.Empty:
            return controls
        if topics.is_control(message.topic):
            controls.append(json.loads(message.payload))


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGTERM, signal.SIGHUP)],
)
def test_a_signal_cancels_the_prompt(
    port: int, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    with device(port, starts) as pi:
        asking = start(tmp_path, port)
        assert asking.stdout is not None
        assert asking.stdout.read(1)
        for number in signals:
            asking.send_signal(number)
            time.sleep(0.2)
        _, errors = asking.communicate(timeout=WAIT_SECONDS)
        assert asking.returncode == 130
        assert b"Traceback" not in errors
        assert [control["kind"] for control in heard(pi)] == ["cancel"]


def test_under_nohup_a_hangup_is_ignored(port: int, tmp_path: Path) -> None:
    with device(port, starts) as pi:
        asking = start(tmp_path, port, "nohup")
        assert asking.stdout is not None
        assert asking.stdout.read(1)
        asking.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert asking.poll() is None
        asking.send_signal(signal.SIGTERM)
        asking.communicate(timeout=WAIT_SECONDS)
        assert [control["kind"] for control in heard(pi)] == ["cancel"]


def test_a_reader_that_ends_cancels_the_prompt(port: int, tmp_path: Path) -> None:
    def endless(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            device.reply(message, "accepted", {"position": 0})
            for _ in range(50):
                device.reply(message, "delta", delta("Once upon a time. " * 500))

    with device(port, endless) as pi:
        asking = start(tmp_path, port)
        assert asking.stdout is not None
        asking.stdout.read(1)
        asking.stdout.close()
        assert asking.wait(WAIT_SECONDS) == 1
        assert asking.stderr is not None
        assert b"Traceback" not in asking.stderr.read()
        assert [control["kind"] for control in heard(pi)] == ["cancel"]


@pytest.mark.parametrize("after_seconds", [0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_during_the_start_is_silent(tmp_path: Path, after_seconds: float) -> None:
    """Whenever it comes; a broker that takes the connection and says nothing keeps it waiting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        asking = start(tmp_path, server.getsockname()[1])
        time.sleep(after_seconds)
        asking.send_signal(signal.SIGINT)
        out, errors = asking.communicate(timeout=WAIT_SECONDS)
    assert out == b""
    # the interpreter itself was not up yet
    if b"site.py" not in errors and b"Could not import runpy" not in errors:
        assert errors == b""
        assert asking.returncode in (130, -signal.SIGINT)


# --- beyond a text --------------------------------------------------------------------------------
def tells(device: Device, message: wire.Inbound) -> None:
    """Answer with the body that came, thinking first."""
    if topics.is_control(message.topic):
        return
    body = json.loads(message.payload)
    text = json.dumps(body)
    device.reply(message, "accepted", {"position": 0})
    thought = {"seq": 0, "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]}
    device.reply(message, "delta", thought)
    device.reply(message, "delta", delta(text))
    token = {"token": "x", "logprob": -0.25, "bytes": [120]}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "reasoning_content": "Hm."},
        "finish_reason": "length",
        "logprobs": {"content": [{**token, "top_logprobs": [{**token, "token": "y"}]}]},
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    device.reply(message, "final", {"choices": [choice], "usage": usage, "timings": None})


def test_schema_log_probabilities_and_thinking(tmp_path: Path, port: int) -> None:
    (tmp_path / "verdict.json").write_text('{"type": "object"}')
    with device(port, tells):
        how = ("--schema", "verdict.json", "--logprobs", "1", "--effort", "low")
        done = ask(tmp_path, port, "Hi", *how)
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 1)
    assert asked["reasoning_effort"] == "low"
    said = done.stderr.decode()
    assert "Hm.\n" in said
    assert "-0.250 'x'    -0.250 'y'" in said
    assert "its JSON is not whole" in said

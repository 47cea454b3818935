"""`edgekit chat` in a real terminal (tmux) and piped, on real Mosquitto: devices that do as they
are told, and SmolLM2 on a real one."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgekit.core.protocol import topics, wire
from tests import tools
from tests.conftest import Project
from tests.contract.test_requester import Device, delta
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.tmux import UTF8, TmuxWindow, edgekit, tmux

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tools.mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker.port


@pytest.fixture
def pi(port: int) -> Iterator[SimulatedDevice]:
    with closing(SimulatedDevice(port, f"pi-{uuid.uuid4().hex[:6]}", pools=("kitchen",))) as made:
        yield made


@contextmanager
def chat(folder: Path, port: int, to: str, *options: str, width: int = 100) -> Iterator[TmuxWindow]:
    """A conversation in a terminal that waits for the first line."""
    command = edgekit("chat", to, *options, "--broker", f"127.0.0.1:{port}")
    environment = UTF8 | {"XDG_STATE_HOME": str(folder / "state")}
    with tmux(folder, command, width=width, environment=environment) as window:
        window.wait_for(f"{to}>")
        yield window


def piped(port: int, folder: Path, to: str, text: str, *options: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a conversation without a terminal."""
    done = subprocess.run(
        edgekit("chat", to, *options, "--broker", f"127.0.0.1:{port}"),
        cwd=folder, input=text, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def contents(pi: SimulatedDevice) -> list[list[str]]:
    """The texts of each prompt that came."""
    return [[m["content"] for m in prompt.body["messages"]] for prompt in pi.prompts.values()]


# --- in a terminal --------------------------------------------------------------------------------
def test_a_conversation_goes_on_and_has_a_history(
    port: int, pi: SimulatedDevice, tmp_path: Path
) -> None:
    with chat(tmp_path, port, pi.name, "--system", "Be brief.") as window:
        window.type("one", "Enter")
        window.wait_for("You said: one\n")
        window.type("two \\", "Enter")
        window.type("three", "M-Enter")
        window.type("four", "Enter")
        told = window.wait_for("You said: two \nthree\nfour")
        assert "context 3 of 1024" in told
        window.type("", "Up", "Up", "Up", "Up", "Enter")  # through three lines, to `one`
        tools.eventually(lambda: len(pi.prompts) == 3)
        window.type("", "C-d")
        assert window.end_of() == 0
    said = ["Be brief.", "one", "You said: one", "two \nthree\nfour"]
    assert contents(pi)[1] == said
    assert contents(pi)[2] == [*said, "You said: two \nthree\nfour", "one"]
    kept = tmp_path / "state" / "edgekit" / "chat-history"
    assert "+three" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_cancels_the_answer_on_the_device_and_not_the_program(
    port: int, pi: SimulatedDevice, tmp_path: Path
) -> None:
    with chat(tmp_path, port, pi.name) as window:
        window.type("say 500 50", "Enter")
        window.wait_for("w3 ")
        window.type("", "C-c")
        window.wait_for("cancelled")
        (prompt,) = pi.prompts.values()
        assert prompt.cancelled.is_set()
        assert prompt.sent < 300  # it did not go on to the end
        window.type("and now", "Enter")
        window.wait_for("You said: and now")
        assert contents(pi)[1][1] == prompt.shown  # the model hears how far it came
        window.type("half a line", "C-c")
        window.wait_for("Ctrl-D ends")
        window.type("/quit", "Enter")
        assert window.end_of() == 0
    assert len(pi.prompts) == 2


def test_a_device_that_does_not_answer_a_cancel_is_left_and_cancelled_once_it_begins(
    port: int, tmp_path: Path
) -> None:
    waiting: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()

    def silent(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            waiting.put(message)

    with closing(Device(port, "mute", "p", silent)) as mute, chat(tmp_path, port, "mute") as window:
        window.type("Hello?", "Enter")
        prompt = waiting.get(timeout=30)
        window.type("", "C-c")
        assert _next_control(mute) == "cancel"
        window.type("", "C-c")
        window.wait_for("has not said how far it came")
        mute.reply(prompt, "accepted", {"position": 0})
        assert [_next_control(mute), _next_control(mute)] == ["cancel", "cancel"]
        window.type("/quit", "Enter")
        assert window.end_of() == 0


def _next_control(device: Device) -> str:
    while True:
        message = device.heard.get(timeout=20)
        if topics.is_control(message.topic):
            return str(json.loads(message.payload)["kind"])


HOSTILE = "safe \x1b]0;owned\x07\x1b[2J\x1b[H\x1b[31m\x9b2J\rhidden\b\b\x1b(0 end"


def test_what_a_model_says_never_controls_the_terminal(port: int, tmp_path: Path) -> None:
    def hostile(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            device.reply(message, "accepted", {"position": 0})
            thought = {"index": 0, "delta": {"reasoning_content": f"Hm. {HOSTILE}"}}
            device.reply(message, "delta", {"seq": 0, "choices": [thought]})
            for piece in HOSTILE:
                device.reply(message, "delta", delta(piece))
            device.final(message, HOSTILE)

    with closing(Device(port, "evil", "p", hostile)), chat(tmp_path, port, "evil") as window:
        window.type("Hello", "Enter")
        told = window.wait_for("stop\n")
        assert "evil> Hello" in told  # nothing was cleared
        assert told.count("\ufffd") == 2 * sum(HOSTILE.count(c) for c in "\x1b\x07\x9b\r\b")
        assert "owned" not in window.run("display-message", "-p", "#{pane_title}")
        window.type("/save talk.json", "Enter")
        window.wait_for("questions written to talk.json: 1")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][1]["content"] == HOSTILE  # what it said is kept as it is


def test_a_narrow_window_that_is_resized_shows_everything(
    port: int, pi: SimulatedDevice, tmp_path: Path
) -> None:
    with chat(tmp_path, port, pi.name, width=40) as window:
        window.type("say 40 20", "Enter")
        window.wait_for("w20 ")
        window.resize(60, 20)
        told = window.wait_for("w39 ")
        assert " ".join(f"w{n}" for n in range(40)) in " ".join(told.split())
        window.resize(40, 20)
        window.type("a line that is longer than the window is wide, by far", "Enter")
        window.wait_for("You said: a line that is longer than the window is wide, by far")
        assert max(map(len, window.screen.splitlines())) <= 40


def test_commands_in_a_conversation(port: int, pi: SimulatedDevice, tmp_path: Path) -> None:
    other = SimulatedDevice(port, f"nano-{uuid.uuid4().hex[:6]}", model="large")
    with closing(other), chat(tmp_path, port, pi.name) as window:
        window.type("/device", "Enter")
        window.wait_for(f"* {pi.name}")
        window.type("one", "Enter")
        window.wait_for("You said: one")
        window.type("/model large", "Enter")
        window.wait_for(f"{other.name}>")
        window.type("two", "Enter")
        window.wait_for("You said: two")
        assert contents(other) == [["one", "You said: one", "two"]]
        window.type("/save talk.md", "Enter")
        window.wait_for("questions written to talk.md: 2")
        window.type("/drop", "Enter")
        window.wait_for("questions dropped: 1, left: 1")
        window.type("/syst", "Tab")
        window.wait_for("> /system")  # completed
        window.type("Be brief.", "Enter")
        window.wait_for("\nBe brief.\n")
        window.type("three", "Enter")
        window.wait_for("You said: three")
        window.type("/image photo.jpg", "Enter")
        window.wait_for("takes no pictures")
        window.type(f"/device {pi.name}x", "Enter")
        window.wait_for(f"did you mean '{pi.name}'?")
        window.type("/save talk.md", "Enter")  # it is this conversation's own
        window.type("/new", "Enter")
        window.type("four", "Enter")
        window.wait_for("You said: four")
        assert contents(other)[1:] == [
            ["Be brief.", "two", "You said: two", "three"], ["Be brief.", "four"],
        ]  # fmt: skip
    assert (tmp_path / "talk.md").read_text().startswith("## system\n\nBe brief.\n\n## user\n\ntwo")


def test_a_signal_ends_it_and_gives_the_terminal_back(
    port: int, pi: SimulatedDevice, tmp_path: Path
) -> None:
    with chat(tmp_path, port, pi.name) as window:
        os.kill(window.pid, signal.SIGTERM)
        assert window.end_of() == 130
    other = tmp_path / "b"
    other.mkdir()
    with chat(other, port, pi.name) as window:
        window.type("say 500 50", "Enter")
        window.wait_for("w3 ")
        os.kill(window.pid, signal.SIGTERM)
        assert window.end_of() == 130
        tools.eventually(lambda: all(each.cancelled.is_set() for each in pi.prompts.values()))


# --- what a device says ---------------------------------------------------------------------------
def test_a_conversation_too_long_for_the_context_can_go_on(port: int, tmp_path: Path) -> None:
    def short(device: Device, message: wire.Inbound) -> None:
        if topics.is_control(message.topic):
            return
        if len(json.loads(message.payload)["messages"]) > 3:
            error = wire.ProtocolError("context_length_exceeded", "the prompt has 99 tokens")
            device.reply(message, "error", error.encode())
        else:
            device.final(message, "Yes.")

    with closing(Device(port, "tiny", "p", short)), chat(tmp_path, port, "tiny") as window:
        for text in ("one", "two"):
            window.type(text, "Enter")
            window.wait_for(f"> {text}\nYes.")
        window.type("three", "Enter")
        told = window.wait_for("/drop forgets the older half")
        assert "the prompt has 99 tokens" in told
        window.type("/drop", "Enter")
        window.wait_for("questions dropped: 1, left: 1\nYes.")  # it asked again by itself


def test_a_pool_stays_with_one_device_until_that_is_gone(port: int, tmp_path: Path) -> None:
    heard: list[str] = []

    def first(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            heard.append(message.topic)
            device.final(message, f"{device.name} here.")

    with closing(Device(port, "one", "cellar", first)) as one:
        card = {"model": "toy", "version": "1", "pools": ["cellar"]}
        one.announce(json.dumps(card).encode(), topics.card_topic)
        with chat(tmp_path, port, "pool:cellar") as window:
            window.type("a", "Enter")
            window.wait_for("one here.\none; ")
            window.type("b", "Enter")
            tools.eventually(lambda: len(heard) == 2)
            assert "/req/pool/cellar/" in heard[0]
            assert "/req/dev/one/" in heard[1]
            one.announce(b'{"state": "lost"}')
            window.wait_for("pool:cellar>")
            window.type("c", "Enter")
            tools.eventually(lambda: len(heard) == 3)
            assert "/req/pool/cellar/" in heard[2]


# --- piped ----------------------------------------------------------------------------------------
def test_lines_of_a_pipe_are_one_conversation(
    port: int, pi: SimulatedDevice, tmp_path: Path
) -> None:
    text = '/system Be brief.\none\n\ntwo\\\nthree\n"""\nfour\nfive\n"""\n/save talk.json\n'
    code, out, errors = piped(port, tmp_path, pi.name, text)
    assert code == 0, errors
    assert out == "Be brief.\nYou said: one\nYou said: two\nthree\nYou said: four\nfive\n"
    assert not (tmp_path / "state").exists()
    code, out, errors = piped(port, tmp_path, pi.name, "six\n", "--load", "talk.json")
    assert code == 0, errors
    assert contents(pi)[-1] == [
        *("Be brief.", "one", "You said: one", "two\nthree", "You said: two\nthree"),
        *("four\nfive", "You said: four\nfive", "six"),
    ]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("/nope\n", 2, "there is no /nope"),
        ("open \\\n", 2, "does not end"),
        ("caf\udce9\n", 2, "line 1 of standard input is not UTF-8"),
        ("fail internal\nnever\n", 1, "fail as asked"),
        ("/save talk.md\n/load talk.md\n", 2, "is no conversation"),
        ("/save /nowhere/talk.md\n", 2, "cannot be written"),
        ("/load nothing.json\n", 2, "No such file"),
    ],
)
def test_a_pipe_ends_at_what_cannot_be_done(
    port: int, pi: SimulatedDevice, tmp_path: Path, text: str, code: int, said: str
) -> None:
    done = subprocess.run(
        edgekit("chat", pi.name, "--broker", f"127.0.0.1:{port}"),
        cwd=tmp_path, input=text.encode("utf-8", "surrogateescape"), capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert said in errors
    assert "Traceback" not in errors
    assert not any("never" in each for each in contents(pi))


def test_who_is_not_there_is_refused_before_anything_is_typed(
    port: int, pi: SimulatedDevice, tmp_path: Path
) -> None:
    code, _, errors = piped(port, tmp_path, pi.name + "x", "Hello\n")
    assert (code, f"did you mean '{pi.name}'?" in errors) == (2, True)
    pi.say_state("lost")
    code, _, errors = piped(port, tmp_path, pi.name, "Hello\n")
    assert (code, "its status is `lost`" in errors) == (1, True)
    code, _, errors = piped(tools.free_port(), tmp_path, pi.name, "Hello\n")
    assert code == 1
    assert "nothing listens" in errors or "refused" in errors


def test_a_signal_cancels_what_a_pipe_asked(port: int, pi: SimulatedDevice, tmp_path: Path) -> None:
    with tools.interruptible():
        running = subprocess.Popen(
            edgekit("chat", pi.name, "--broker", f"127.0.0.1:{port}"),
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(b"say 500 50\nnever\n")
    running.stdin.flush()
    assert running.stdout.read(2) == b"w0"
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)
    assert (running.returncode, b"Traceback" in errors) == (130, False)
    tools.eventually(lambda: all(each.cancelled.is_set() for each in pi.prompts.values()))
    assert len(pi.prompts) == 1


# --- the real thing -------------------------------------------------------------------------------
@pytest.mark.timeout(400)  # the device is pushed to first
@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_smollm2_answers_remembers_and_stops(device: Project, tmp_path: Path) -> None:
    command = edgekit("chat", "demo", "--temperature", "0", "--max-tokens", "400")
    state = {"EDGEKIT_BROKER": f"127.0.0.1:{device.port}", "XDG_STATE_HOME": str(tmp_path)}
    with tmux(tmp_path, command, cwd=device.folder, environment=UTF8 | state) as window:
        window.wait_for("demo>")
        window.type("What is the capital of France?", "Enter")
        told = window.wait_for("stop; context", 60)
        assert "Paris" in told
        window.type("/new", "Enter")
        window.type("Write a very long story about a dragon and a princess.", "Enter")
        tools.eventually(lambda: len(window.everything) > len(told) + 160)
        window.type("", "C-c")
        told = window.wait_for("cancelled; context", 20)
        deadline = time.monotonic() + 30
        while "* demo  ready" not in window.everything:  # then the model has stopped
            assert time.monotonic() < deadline, window.everything
            window.type("/device", "Enter")
            time.sleep(1)
        window.type("/quit", "Enter")
        assert window.end_of() == 0

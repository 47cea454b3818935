"""`edgekit top` in a real terminal (tmux), piped and as JSON, on real Mosquitto."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from edgekit.client import forget
from edgekit.core.config import BrokerConfig
from tests import tools
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.tmux import edgekit, tmux
from tests.show import top_thousand

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def fleet(file_broker: tools.MosquittoBroker) -> Iterator[list[SimulatedDevice]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(SimulatedDevice(file_broker.port, f"pi-{n}", pools=("k",))))
            for n in (1, 2, 10)
        ]


def top(port: int, *arguments: str) -> list[str]:
    return edgekit("top", *arguments, "--broker", f"127.0.0.1:{port}")


def run(port: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        top(port, *arguments), cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_fleet_is_live(
    file_broker: tools.MosquittoBroker, fleet: list[SimulatedDevice], tmp_path: Path
) -> None:
    fleet[1].say_state("degraded", reason="thermal", temp_c=88, queue=3, active=1, tok_s=12.0)
    with tmux(tmp_path, top(file_broker.port)) as window:
        window.wait_for("3 devices: 2 ready, 1 degraded; 3 prompts wait; 12 tokens/s")
        order = [line.split()[0] for line in window.screen.splitlines()[2:5]]
        assert order == ["pi-1", "pi-2", "pi-10"]
        assert "pi-2    degraded  thermal" in window.screen
        fleet[2].say_state("lost")  # as its Will does
        tools.eventually(lambda: "1 lost" in window.screen, 15, "a device that goes away")
        window.type(">")  # by state: the worst first
        tools.eventually(lambda: "by state" in window.screen)
        assert [line.split()[0] for line in window.screen.splitlines()[2:5]] == [
            *("pi-10", "pi-2", "pi-1")
        ]
        window.type("r")
        tools.eventually(lambda: "reversed" in window.screen)
        window.resize(40, 6)
        tools.eventually(lambda: window.screen.splitlines()[5].startswith("by state, reversed"))
        assert max(map(len, window.screen.splitlines())) <= 40
        joined = SimulatedDevice(file_broker.port, "nano")
        window.resize(100, 12)
        tools.eventually(lambda: "nano" in window.screen, what="a device that is new")
        joined.close()
        at = BrokerConfig("127.0.0.1", file_broker.port)

        def forgotten() -> bool:
            forget(at, "tests", "nano")  # a broker that lags behind may publish the Will after all
            return "nano" not in window.screen

        tools.eventually(forgotten, what="one that was forgotten")
        window.type("q")
        assert window.end_of() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(
    file_broker: tools.MosquittoBroker, fleet: list[SimulatedDevice], tmp_path: Path, number: int
) -> None:
    with tmux(tmp_path, top(file_broker.port)) as window:
        window.wait_for("3 devices")
        os.kill(window.pid, number)
        assert window.end_of() == (0 if number == signal.SIGINT else 130)
        assert "Traceback" not in window.everything


def test_a_broker_that_goes_away_shows_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with (
        tools.mosquitto(tmp_path / "m") as own,
        closing(SimulatedDevice(own.port, "pi")),
        tmux(tmp_path, top(own.port)) as window,
    ):
        window.wait_for("1 devices")
        own.stop(kill=True)
        tools.eventually(lambda: "no connection to" in window.screen)
        assert "pi" in window.screen
        own.start()
        tools.eventually(lambda: "no connection to" not in window.screen)
        tools.eventually(lambda: "1 ready" in window.screen)


def test_a_pipe_is_told_that_the_broker_is_gone_and_gets_no_old_lines(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    shown, told = tmp_path / "shown", tmp_path / "told"

    def lines() -> int:
        return len(shown.read_text().splitlines())

    with tools.mosquitto(tmp_path / "m") as own, closing(SimulatedDevice(own.port, "pi")):
        with tools.interruptible(), shown.open("wb") as out, told.open("wb") as errors:
            running = subprocess.Popen(
                top(own.port, "--interval", "0.2"), cwd=tmp_path, stdout=out, stderr=errors,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        try:
            tools.eventually(lambda: lines() >= 3)
            own.stop(kill=True)
            tools.eventually(lambda: "no connection to" in told.read_text())
            before = lines()
            time.sleep(1)
            assert lines() == before, "lines about what nobody knows"
            own.start()
            tools.eventually(lambda: lines() > before)
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 0
            said = told.read_text().splitlines()
            assert said[-1] == "it is back"
            assert sum("no connection to" in each for each in said) == 1
        finally:
            running.kill()
            running.wait(20)


@pytest.mark.parametrize("words", [("--once",), ("--once", "--sort", "state")])
def test_a_state_with_line_ends_makes_no_lines(
    file_broker: tools.MosquittoBroker, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with closing(SimulatedDevice(file_broker.port, "evil")) as evil:
        evil.say_state("a\nb\u2028c\td")
        done = run(file_broker.port, tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split("\n")) == 4  # head, device, sum, and the last line's end
        assert not set(done.stdout) & {"\u2028", "\t"}


def test_what_a_stranger_says_never_controls_the_terminal(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    model = "\x1b]0;owned\x07\x1b[2Jm"
    with closing(SimulatedDevice(file_broker.port, "evil", model=model)) as evil:
        evil.say_state("ready\x1b[2J", release="\x1b[31m", reason="\x9b2J")
        with tmux(tmp_path, top(file_broker.port), width=120) as window:
            told = window.wait_for("1 devices")
            assert "evil" in told
            assert "owned" not in window.run("display-message", "-p", "#{pane_title}")
        assert "\x1b" not in run(file_broker.port, tmp_path, "--once").stdout


def test_json_is_one_moment(
    file_broker: tools.MosquittoBroker, fleet: list[SimulatedDevice], tmp_path: Path
) -> None:
    fleet[0].say_state(
        "busy", queue=1, active=2, tok_s=31.5, mem_free_mb=9, mem_total_mb=99, since=5
    )
    done = run(file_broker.port, tmp_path, "pi-*", "!pi-10", "--json", "--sort", "queue")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["device"] for each in told["devices"]] == ["pi-1", "pi-2"]
    assert told["devices"][0] == {
        "device": "pi-1", "state": "busy", "queue": 1, "active": 2, "tok_s": 31.5, "temp_c": None,
        "mem_free_mb": 9, "mem_total_mb": 99, "release": "", "model": "toy", "version": "1",
        "pools": ["k"], "since": 5, "reason": "",
    }  # fmt: skip


def test_a_pipe_gets_a_line_for_each_device_once_per_interval(
    file_broker: tools.MosquittoBroker, fleet: list[SimulatedDevice], tmp_path: Path
) -> None:
    with tools.interruptible():
        running = subprocess.Popen(
            top(file_broker.port, "--interval", "0.3"), cwd=tmp_path, stdout=subprocess.PIPE,
            text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    assert running.stdout is not None
    head, *lines = [running.stdout.readline() for _ in range(7)]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert head.split()[:3] == ["time", "device", "state"]
    assert [line.split()[1] for line in lines] == ["pi-1", "pi-2", "pi-10"] * 2
    assert lines[0].split()[0] < lines[3].split()[0] or lines[0][:16] == lines[3][:16]
    assert running.returncode == 0


def test_devices_of_the_file_that_are_not_there_are_unseen(
    file_broker: tools.MosquittoBroker, fleet: list[SimulatedDevice], tmp_path: Path
) -> None:
    (tmp_path / "edgekit.toml").write_text(f"[broker]\nport = {file_broker.port}\n")
    (tmp_path / "fleet.toml").write_text(
        '[devices.pi-1]\naddress = "local:a"\ntags = ["hot"]\n'
        '[devices.far]\naddress = "ssh:far"\nsite = "hall"\n'
    )
    done = subprocess.run(
        edgekit("top", "--once", "tag=hot", "site=hall"),
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 devices: 1 ready, 1 unseen; 0 prompts wait"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothere",), "there is no device or group 'nothere'"),
        (("--sort", "colour"), "one of device, state"),
        (("--interval", "0"), "too short"),
        (("--interval", "nan"), "no time"),
        (("--interval", "inf"), "no time"),
    ],
)
def test_a_wrong_word_is_refused(
    file_broker: tools.MosquittoBroker, fleet: list[SimulatedDevice], tmp_path: Path,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    done = run(file_broker.port, tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_thousand_devices_neither_flicker_nor_eat_the_cpu(tmp_path: Path) -> None:
    figures, sound = top_thousand.measured(tmp_path, 6.0)
    assert sound, figures

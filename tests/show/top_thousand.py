"""`edgekit top` in a real terminal with 1,000 devices at a real Mosquitto that say their status as
often as real ones do: what it costs, how it draws, and how soon a device that goes away shows.

`tests/system/test_top.py` runs it for a shorter time.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.payloads import DeviceState
from edgekit.core.protocol.reasons import FAILURE
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.harness.tmux import UTF8, TmuxWindow, edgekit, tmux
from tests.show import Figures

DEVICES, SECONDS = 1000, 30.0
STATUS_SECONDS = 30.0  # a device says its status so often
MOST_CPU_PERCENT = 15.0
MOST_MB = 120.0
MOST_GONE_SECONDS = 5.0  # on a machine that others use too
WAIT_SECONDS = 30.0
AT_ONCE = 100


def count() -> tuple[Figures, bool]:
    """The figures, and whether all are as they must be."""
    with tempfile.TemporaryDirectory(prefix="edgekit-top-") as place:
        return measured(Path(place), SECONDS)


def measured(folder: Path, seconds: float) -> tuple[Figures, bool]:
    """The figures of so many seconds."""
    site = folder / "mosquitto"
    site.mkdir(parents=True)
    with tools.mosquitto(site) as broker:
        fleet = _Fleet(broker.port)
        command = edgekit("top", "--broker", f"127.0.0.1:{broker.port}")
        began = time.monotonic()
        with tmux(folder, command, width=120, height=50, environment=UTF8) as window:
            window.wait_for(f"{DEVICES} devices", 60)
            first = time.monotonic() - began
            drawn = folder / "drawn"
            window.run("pipe-pane", f"cat > {drawn}")
            before, start = _cpu_seconds(window.pid), time.monotonic()
            fleet.talk(seconds)
            cpu, took = _cpu_seconds(window.pid) - before, time.monotonic() - start
            window.run("pipe-pane")
            gone = fleet.lose(window)
            memory = _rss_mb(window.pid)
            window.resize(40, 20)
            window.wait_for("1-17 of 1000")
            narrow = max(map(len, window.screen.splitlines()))
            window.type("q")
            status = window.end_of()
        fleet.close()
        output = drawn.read_bytes()
    figures: Figures = {
        "devices": DEVICES,
        "first_seconds": round(first, 1),
        "cpu_percent": round(100 * cpu / took, 1),
        "rss_mb": round(memory),
        "kb_per_second": round(len(output) / took / 1000, 1),
        "cleared": output.count(b"\x1b[2J"),
        "gone_seconds": round(gone, 1),
        "exit": status,
    }
    sound = (
        100 * cpu / took <= MOST_CPU_PERCENT
        and memory <= MOST_MB
        and len(output) > 0
        and b"\x1b[2J" not in output
        and gone <= MOST_GONE_SECONDS
        and narrow <= 40
        and status == 0
    )
    return figures, sound


class _Fleet:
    """Devices as far as a broker can tell: one connection announces all of them."""

    def __init__(self, port: int) -> None:
        self._sent: list[Future[int]] = []
        self._mqtt = MqttClient(
            BrokerConfig("127.0.0.1", port), "fleet", subscriptions=[], on_message=lambda _: None
        )
        self._mqtt.connect()
        for n in range(DEVICES):
            card = wire.Card(
                f"d-{n}", "sha256:" + "ab" * 32, "toy", "1", 1024, 512, 8, "sim", pools=("p",)
            )
            self._say(topics.card_topic(f"d-{n}"), card)
            self._status(n, "ready")

    def talk(self, seconds: float) -> None:
        """Each device says how it is, one after the other, as often as a real one."""
        began, said = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while said < passed * DEVICES / STATUS_SECONDS:
                self._status(said % DEVICES, "busy" if said % 3 else "ready", said % 50)
                said += 1
            time.sleep(0.02)

    def lose(self, window: TmuxWindow) -> float:
        """How long it takes until a device that goes away shows."""
        began = time.monotonic()
        self._status(7, "lost")
        tools.eventually(lambda: "1 lost" in window.screen, WAIT_SECONDS, "the lost device")
        return time.monotonic() - began

    def close(self) -> None:
        """Disconnect."""
        self._mqtt.close()

    def _status(self, n: int, state: DeviceState, more: int = 0) -> None:
        status = wire.Status(
            state, "sha256:" + "ab" * 32, 0, int(state == "busy"), 20.0 + more, 100.0,
            40 + more % 40, 1000 + more, mem_total_mb=8000, since=int(time.time()) - n,
        )  # fmt: skip
        self._say(topics.status_topic(f"d-{n}"), status)

    def _say(self, topic: str, payload: msgspec.Struct) -> None:
        message = wire.Outbound(topic, msgspec.json.encode(payload), retain=True)
        self._sent.append(self._mqtt.publish(message))
        if len(self._sent) >= AT_ONCE:  # a client queues 1,000
            for each in self._sent:
                assert each.result(WAIT_SECONDS) < FAILURE
            self._sent.clear()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

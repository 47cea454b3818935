"""A rule under 100 messages a second, agent and broker killed, and the rule taken away.

A real device (SmolLM2), a real Mosquitto, and a sensor that publishes at QoS 1. Each message has a
trace of its own, which its answer repeats. After each kill the flood rests, and the sensor
publishes again what was answered in the last 50 s, as a publisher does whose PUBACKs were lost.
Nothing is newer then: a device that had forgotten would answer these again.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from tests import tools
from tests.conftest import Project, make_project_alone
from tests.harness.ruled import Listener, Sensor
from tests.show import Figures
from tests.show.planted import built_smollm2
from tests.tools import MosquittoBroker, eventually

PER_SECOND = 100
PER_MINUTE = 30
INTERVAL_SECONDS = 60 / PER_MINUTE
PHASE_SECONDS = 10.0
AGAIN_SECONDS = 50.0  # below the rule's repeat_seconds
TOPIC, SAID = "plant/demo/load", "edgekit/v1/rule/demo/load"
RULE = f"""
[devices.demo.rules.load]
topic_filter = "plant/{{device}}/load"
prompt = "The load is {{{{ message.load }}}}. Say one word."
body = {{temperature = 0, max_tokens = 6}}
per_minute = {PER_MINUTE}
"""


class Flood:
    """A sensor that publishes so many messages a second, each another one."""

    def __init__(self, sensor: Sensor) -> None:
        self.sent: dict[str, tuple[int, float]] = {}  # trace: number, and when
        self._sensor = sensor
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread()
        self.go_on()

    def _run(self) -> None:
        due = time.monotonic()
        for number in self._numbers:
            self.sent[self._sensor.send(TOPIC, {"load": number})] = (number, time.monotonic())
            due += 1 / PER_SECOND
            if self._over.wait(max(0.0, due - time.monotonic())):
                return

    def go_on(self) -> None:
        """Begin, or begin again."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def again(self, trace: str) -> None:
        """Publish a message again, byte by byte."""
        number, _ = self.sent[trace]
        body = json.dumps({"load": number}).encode()
        user = ((wire.TRACEPARENT, trace),)
        self._sensor.client.publish(wire.Outbound(TOPIC, body, user=user))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()


def _is_another(project: Project, before: int) -> bool:
    """Whether an agent is ready that is not this one."""
    return agent_of(project) not in (0, before)


def agent_of(project: Project) -> int:
    """The agent's process; 0 while none is ready."""
    try:
        return int(json.loads((project.root() / "run" / "ready.json").read_text())["pid"])
    except (FileNotFoundError, ValueError):
        return 0


def rss_mb(pid: int) -> float:
    """The memory that a process holds."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line
    ]
    return round(int(line.split()[1]) / 1024, 1)


def count() -> tuple[Figures, bool]:
    """What was published, and whether no message was answered twice."""
    with tempfile.TemporaryDirectory(prefix="edgekit-rules-") as folder:
        place = Path(folder)
        (place / "mosquitto").mkdir()
        with tools.mosquitto(place / "mosquitto") as mosquitto:
            project = make_project_alone(place / "project", mosquitto.port, built_smollm2())
            project.edgekit("push", "demo")
            try:
                return _count(project, mosquitto)
            finally:
                project.edgekit("stop", "demo")


def _count(project: Project, mosquitto: MosquittoBroker) -> tuple[Figures, bool]:
    fleet = project.folder / "fleet.toml"
    without = fleet.read_text()
    fleet.write_text(without + RULE)
    project.edgekit("push", "demo")
    broker = BrokerConfig("127.0.0.1", mosquitto.port)
    with Listener(broker, SAID) as listener, Sensor(broker) as sensor:
        began = time.monotonic()
        flood, repeated = Flood(sensor), 0
        time.sleep(PHASE_SECONDS)
        flooded_rss = rss_mb(agent_of(project))
        for kind in ("agent", "broker", "agent"):
            print(f"  killing the {kind}", file=sys.stderr, flush=True)
            before = agent_of(project)
            if kind == "agent":
                os.kill(before, signal.SIGKILL)
                eventually(partial(_is_another, project, before), seconds=120)
            else:
                mosquitto.stop(kill=True)
                time.sleep(1)
                mosquitto.start()
                sensor.back()
                listener.back()
            flood.stop()
            time.sleep(2 * INTERVAL_SECONDS)  # what waits for the rate is answered
            since = time.monotonic() - AGAIN_SECONDS
            answered = {trace for _, trace in listener.heard}
            again = [trace for trace in answered if flood.sent[trace][1] > since]
            for trace in again:
                flood.again(trace)
            repeated += len(again)
            time.sleep(2 * INTERVAL_SECONDS)
            flood.go_on()
            time.sleep(PHASE_SECONDS)
        flood.stop()
        seconds = time.monotonic() - began
        time.sleep(2 * INTERVAL_SECONDS)
        heard = list(listener.heard)
        print("  taking the rule away", file=sys.stderr, flush=True)
        fleet.write_text(without)
        project.edgekit("push", "demo")
        last = Flood(sensor)
        time.sleep(5)
        last.stop()
        after = len(listener.heard) - len(heard)
        plain_rss = rss_mb(agent_of(project))
    ids: dict[str, set[str]] = {}
    for answer, trace in heard:
        ids.setdefault(trace, set()).add(answer.id)
    answers = len({answer.id for answer, _ in heard})
    allowed = int(seconds * PER_MINUTE / 60) + 2  # the first at once, the last after the end
    doubled = sum(len(each) > 1 for each in ids.values())
    foreign = len(ids.keys() - flood.sent.keys())
    figures: Figures = {
        "seconds": round(seconds),
        "messages": len(flood.sent),
        "answers": answers,
        "allowed": allowed,
        "kills": 3,
        "published_again": repeated,
        "doubled": doubled,
        "delivered_again": len(heard) - answers,
        "after_stop": after,
        "parent_rss_mb_flooded": flooded_rss,
        "parent_rss_mb_without": plain_rss,
    }
    sound = repeated > 0 < answers <= allowed and not doubled and not foreign and not after
    return figures, sound

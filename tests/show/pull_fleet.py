"""A rollout to 10,000 devices that pull, which are not there, by a real broker.

The controller is a process of its own with the real runner, its journal, `PullHands` and
`PullDesk`. The broker is a real Mosquitto. One client plays all devices: it answers each desired
state with the two reports of a device. 1 % refuse; 2 % are off, and word is left for them. Then
idle connections are opened, to see what the broker needs for each.
"""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.digest import Digest
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import DesiredPayload, UpdatePayload, UpdateState
from edgekit.core.protocol.wire import Inbound, Outbound
from edgekit.fleet.pulling.desk import PullDesk
from edgekit.fleet.pulling.hands import PullHands
from edgekit.fleet.rollout.book import RolloutBook
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import HookEnded, RolloutStarted
from edgekit.fleet.rollout.run import run
from edgekit.fleet.rollout.waves import RolloutPlan, Terms, waves_of
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.show import Figures

DEVICES, REFUSE, OFF, CONNECTIONS = 10_000, 100, 200, 1000
PARALLEL = 200
RELEASE, BEFORE = Digest.of(b"release"), Digest.of(b"before")
LIMITS = "max_queued_messages 0\nmax_inflight_messages 0\n"  # one client stands for thousands


def count() -> tuple[Figures, bool]:
    """The figures, and whether every device is where it must be."""
    return counted(DEVICES, REFUSE, OFF, CONNECTIONS)


def counted(devices: int, refuse: int, off: int, connections: int) -> tuple[Figures, bool]:
    """The figures of a fleet of that size."""
    with tempfile.TemporaryDirectory() as place, tools.mosquitto(Path(place), 0, LIMITS) as broker:
        fleet = _Fleet(BrokerConfig("127.0.0.1", broker.port), devices, refuse, off)
        fleet.begin()
        cpu = _cpu_seconds(broker.pid)
        argv = [sys.executable, "-m", __name__, *map(str, (broker.port, devices))]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=900)
        figures: Figures = json.loads(done.stdout)
        figures["broker_cpu_seconds"] = round(_cpu_seconds(broker.pid) - cpu, 1)
        figures["broker_mb"] = _rss_kb(broker.pid) // 1024
        figures["messages"] = fleet.messages
        figures["bytes_per_device"] = fleet.bytes // max(devices, 1)
        figures["left_word"] = fleet.left_word()
        fleet.end()
        figures["broker_kb_per_connection"] = _per_connection(broker, connections)
    sound = (
        figures["good"] == devices - refuse - off
        and figures["failed"] == refuse
        and figures["away"] == off == figures["left_word"]
    )
    return figures, sound


class _Fleet:
    """The devices: one client that answers for all of them."""

    def __init__(self, broker: BrokerConfig, devices: int, refuse: int, off: int) -> None:
        self._names = [_name(number) for number in range(devices)]
        waves = waves_of(dict.fromkeys(self._names, ""), RELEASE)
        later = [name for wave in waves[1:] for name in wave]
        chosen = random.Random(17).sample(later, refuse + off)
        self._refuse, self._off = set(chosen[:refuse]), set(chosen[refuse:])
        self.messages, self.bytes = 0, 0
        self._word: set[str] = set()
        self._client = MqttClient(
            broker,
            "fleet",
            subscriptions=[(topics.desired_topic("+"), 1)],
            on_message=self._hear,
        )

    def begin(self) -> None:
        self._client.connect()
        for at in range(0, len(self._names), 500):
            waits = [
                self._client.publish(
                    Outbound(
                        topics.status_topic(name),
                        b'{"state":"offline"}' if name in self._off else b'{"state":"ready"}',
                        retain=True,
                    )
                )
                for name in self._names[at : at + 500]
            ]
            for each in waits:
                each.result(60)
        self.messages = self.bytes = 0

    def _hear(self, message: Inbound) -> None:
        desired = msgspec.json.decode(message.payload, type=DesiredPayload)
        device = message.topic.rsplit("/", 1)[1]
        self._count(message.payload)
        if device in self._off:
            if desired.switch:
                self._word.add(device)
            return
        if device in self._refuse:
            self._say(device, desired, "refused", BEFORE)
        elif desired.switch:
            self._say(device, desired, "switching", BEFORE)
            self._say(device, desired, "good", RELEASE)
        else:
            self._say(device, desired, "fetching", BEFORE)
            self._say(device, desired, "staged", BEFORE)

    def _say(
        self, device: str, desired: DesiredPayload, state: UpdateState, current: Digest
    ) -> None:
        payload = msgspec.json.encode(
            UpdatePayload(
                desired.order,
                desired.release,
                state,
                str(current),
                str(BEFORE),
                platform="linux/arm64",
            )
        )
        self._count(payload)
        self._client.publish(Outbound(topics.update_topic(device), payload, 0, retain=True))

    def _count(self, payload: bytes) -> None:
        self.messages += 1
        self.bytes += len(payload)

    def left_word(self) -> int:
        tools.eventually(lambda: len(self._word) == len(self._off), 60, "word is left")
        return len(self._word)

    def end(self) -> None:
        self._client.close(1.0)


def _name(number: int) -> str:
    return f"device-{number:05}"


def main(port: int, devices: int) -> None:
    """Be the controller, and print the figures."""
    names = [_name(number) for number in range(devices)]
    kinds = dict.fromkeys(names, "")
    terms = Terms(parallel=PARALLEL, late_seconds=3600.0)
    plan = RolloutPlan(RELEASE, waves_of(kinds, RELEASE), kinds, terms)
    desk = PullDesk(BrokerConfig("127.0.0.1", port))
    desk.connect()
    hands = PullHands(
        RELEASE, "new:2", 1, desk, lambda _: "", lambda *_: None, lambda *_: HookEnded()
    )
    with tempfile.TemporaryDirectory() as folder:
        _, journal = RolloutBook(Path(folder)).create(plan, time.time())
        journal.append(RolloutStarted("count@here"), time.time())
        began, cpu = time.monotonic(), time.process_time()
        rollout = run(journal, hands, lambda *_: None, "count@here")
        left = hands.leave_word(rollout, names)
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
        rows = len(journal.read()[1])
    desk.close()
    counts = rollout.counts()
    told = {
        "devices": devices,
        "waves": "+".join(str(len(wave)) for wave in rollout.waves),
        "good": counts.get(DeviceState.GOOD, 0),
        "failed": counts.get(DeviceState.FAILED, 0),
        "away": counts.get(DeviceState.AWAY, 0),
        "told_to_join": len(left),
        "parallel": PARALLEL,
        "rows": rows,
        "cpu_seconds": round(cpu, 1),
        "seconds": round(wall, 1),
        "cpu_ms_per_device": round(1000 * cpu / devices, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(told))


# --- the broker -------------------------------------------------------------------------------
def _per_connection(broker: tools.MosquittoBroker, connections: int) -> float:
    """Kilobytes of the broker's memory for each idle connection with two subscriptions."""
    before, sockets = _rss_kb(broker.pid), []
    try:
        for number in range(connections):
            sock = socket.create_connection(("127.0.0.1", broker.port), timeout=10)
            sockets.append(sock)
            sock.sendall(_connect(f"idle-{number:05}"))
            sock.recv(64)
            for each in (topics.desired_topic(_name(number)), topics.request_topic("d", "+")):
                sock.sendall(_subscribe(each))
                sock.recv(16)
        return round((_rss_kb(broker.pid) - before) / max(connections, 1), 1)
    finally:
        for sock in sockets:
            sock.close()


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _connect(name: str) -> bytes:
    """CONNECT of MQTT 5: clean start, keepalive 60 s, no properties (§3.1)."""
    body = _text("MQTT") + b"\x05\x02\x00\x3c\x00" + _text(name)
    return b"\x10" + bytes([len(body)]) + body


def _subscribe(topic_filter: str) -> bytes:
    """SUBSCRIBE of MQTT 5 with packet id 1 and QoS 1 (§3.8)."""
    body = b"\x00\x01\x00" + _text(topic_filter) + b"\x01"
    return b"\x82" + bytes([len(body)]) + body


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


if __name__ == "__main__":
    threading.stack_size(256 << 10)
    main(*map(int, sys.argv[1:]))

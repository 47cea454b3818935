"""Cards, statuses and metrics of many devices, through one connection; nothing answers a prompt."""

from __future__ import annotations

import json
import math
import random
import sys
import threading
import time
import uuid
from typing import Any

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient

SITES = ("berlin", "lyon", "oslo", "turin")
ROOMS = ("kitchen", "hall", "gate", "press", "dock")
MODELS = (("smollm2", "1.4.0", "4"), ("phi-3.5-mini", "2.1.0", "7"), ("qwen2.5-1.5b", "1.0.2", "9"))


class AnnouncedFleet:
    """`count` devices that look like a fleet at work; the same ones for the same count.

    Args:
        port: of the broker.
        count: of devices.
    """

    def __init__(self, port: int, count: int) -> None:
        self._random = random.Random(count)
        self.names = [
            f"{SITES[n % len(SITES)]}-{ROOMS[n // len(SITES) % len(ROOMS)]}-{n + 1:03}"
            for n in range(count)
        ]
        self.state: dict[str, dict[str, Any]] = {}
        self._mqtt = MqttClient(
            BrokerConfig("127.0.0.1", port),
            f"fleet-{uuid.uuid4().hex[:6]}",
            subscriptions=[],
            on_message=lambda _: None,
        )
        self._mqtt.connect()
        sent = []
        for n, name in enumerate(self.names):
            model, version, digit = MODELS[min(self._random.randrange(6), 2)]
            card = wire.Card(
                device=name, release="sha256:" + (digit + f"{n % 2:x}c8e41b0" * 9)[:64],
                model=model, version=version, context_length=4096, max_answer_tokens=1024,
                queue_limit=16, agent="0.18.0", pools=(name.split("-")[1],), slots=4, threads=4,
                capabilities=("tools", "response_format"),
            )  # fmt: skip
            sent.append(self._keep(topics.card_topic(name), msgspec.json.encode(card)))
            self.state[name] = {
                "speed": 4 + 20 * self._random.random(),
                "at": n,
                "said": 0,
                "last": 0.0,
            }
            sent += self._say(name)
        for each in sent:
            each.result(30)

    def tick(self) -> None:
        """Each device says its status once more, another one."""
        for name in self.names:
            self._say(name)

    def close(self) -> None:
        """Clear what the broker keeps of them, and disconnect."""
        sent = [
            self._keep(topic(name), b"")
            for name in self.names
            for topic in (topics.card_topic, topics.status_topic)
        ]
        for each in sent:
            each.result(30)
        self._mqtt.close()

    def _keep(self, topic: str, payload: bytes) -> Any:
        return self._mqtt.publish(wire.Outbound(topic, payload, retain=True))

    def _say(self, name: str) -> list[Any]:
        known, draw = self.state[name], self._random.random
        known["said"] += 1
        said: dict[str, Any] = {"state": "ready", "tok_s": 0.0, "ttft_ms": round(300 * draw())}
        number = known["at"] % 40
        if number == 17:
            said |= {"state": "lost"}
        elif number == 9:
            said |= {"state": "degraded", "reason": "thermal", "temp_c": 86}
        elif number == 27:
            said |= {"state": "starting"}
        elif draw() < 0.5 + 0.5 * math.sin(known["said"] / 9 + known["at"] * 1.7):  # day and night
            active = 1 + int(3 * draw())
            queue = int(5 * draw()) if active > 2 else 0
            said |= {"state": "busy", "active": active, "queue": queue}
        if said["state"] in ("ready", "busy", "degraded"):
            if said["state"] == "busy" or not known["last"]:
                known["last"] = round(known["speed"] * (0.85 + 0.3 * draw()), 1)
            said["tok_s"] = known["last"]  # of the last answer
        if said["state"] != "lost":
            said.setdefault("temp_c", round(44 + 20 * draw()))
            said["mem_total_mb"] = 7800
            said["mem_free_mb"] = round(600 + 2500 * draw()) if number != 23 else 150
        return [self._keep(topics.status_topic(name), json.dumps(said).encode())]


def main() -> None:
    """`python -m tests.fakes.announced_fleet PORT COUNT`: a status a second each, until standard
    input ends."""
    made = AnnouncedFleet(int(sys.argv[1]), int(sys.argv[2]))
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    print("ready", flush=True)
    began = time.monotonic()
    ticks = 0
    while not ended.wait(max(0.0, began + ticks - time.monotonic())):
        made.tick()
        ticks += 1
    made.close()
    print(json.dumps({"statuses": ticks * len(made.names)}), flush=True)


if __name__ == "__main__":
    main()

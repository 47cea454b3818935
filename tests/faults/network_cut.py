"""A device whose network is cut, in namespaces of its own; prints what was seen as one JSON object.

    unshare --net [--map-root-user] python network_cut.py ROOT FOLDER CUT_SECONDS

Here is the broker's side; the agent runs in a second network namespace at the other end of a pair
of virtual interfaces, of which ours goes down: what is sent is lost, and nobody is told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.client import Accepted, Delta, Final, Requester
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient

BROKER, DEVICE = "10.99.0.1", "10.99.0.2"
PORT = 1883
KEEPALIVE_SECONDS = 5
START_SECONDS = 90.0
TOKENS = 120


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True)


def start_broker(folder: Path) -> subprocess.Popen[bytes]:
    config = folder / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(f"listener {PORT} {BROKER}\nallow_anonymous true\n{user}")
    return subprocess.Popen(["mosquitto", "-c", str(config)], env=path_with_daemons())


def path_with_daemons() -> dict[str, str]:
    return os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def main() -> None:
    root, folder, cut_seconds = Root(Path(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3])
    os.environ.update(path_with_daemons())
    ip("link", "set", "lo", "up")
    inside = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    time.sleep(0.5)  # it has its namespace
    enter = ["nsenter", f"--net=/proc/{inside.pid}/ns/net"]
    ip("link", "add", "ours", "type", "veth", "peer", "name", "theirs", "netns", str(inside.pid))
    ip("addr", "add", f"{BROKER}/24", "dev", "ours")
    ip("link", "set", "ours", "up")
    for command in (f"addr add {DEVICE}/24 dev theirs", "link set theirs up", "link set lo up"):
        subprocess.run([*enter, "ip", *command.split()], check=True)
    broker = start_broker(folder)
    config = AgentConfig(
        "demo", BrokerConfig(BROKER, PORT, keepalive_seconds=KEEPALIVE_SECONDS), drain_seconds=1.0
    )
    root.agent_config.write_bytes(msgspec.toml.encode(config))
    with (folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [
                *(*enter, sys.executable, "-S", "-P", "-m", "edgekit.agent"),
                *("serve", "--root", str(root.path)),
            ],
            env=root.environment(root.current.resolve()),
            stdout=log,
            stderr=log,
        )
    try:
        print(json.dumps(story(root, cut_seconds)))
    finally:
        for process in (agent, broker, inside):
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def story(root: Root, cut_seconds: float) -> dict[str, object]:
    """One prompt is running and one is waiting when the network goes."""
    deadline = time.monotonic() + START_SECONDS
    while not root.ready_file.exists():
        assert time.monotonic() < deadline, "the agent is not ready in time"
        time.sleep(0.1)
    states: list[tuple[float, str]] = []
    began = time.monotonic()

    def status(message: wire.Inbound) -> None:
        states.append((time.monotonic() - began, json.loads(message.payload)["state"]))

    broker = BrokerConfig(BROKER, PORT)
    watcher = MqttClient(
        broker, "watcher", subscriptions=[(topics.status_topic("demo"), 1)], on_message=status
    )
    watcher.connect()
    story = {"role": "user", "content": "Tell me a long story."}
    body = {"messages": [story], "max_tokens": TOKENS}
    with Requester(broker, "tester") as requester:
        replies = requester.ask("demo", body, expiry_seconds=600)
        waiting = requester.ask("demo", body, expiry_seconds=600)
        while not isinstance(next(replies), Delta):
            """It runs."""
        accepted = next(waiting)
        assert isinstance(accepted, Accepted)
        ip("link", "set", "ours", "down")
        cut_at = time.monotonic() - began
        time.sleep(cut_seconds)
        ip("link", "set", "ours", "up")
        healed_at = time.monotonic() - began
        finals = [[r for r in each if isinstance(r, Final)][-1] for each in (replies, waiting)]
    ended_at = time.monotonic() - began
    watcher.close()
    return {
        "tokens": [f.completion["usage"]["completion_tokens"] for f in finals],
        "cut_at": cut_at,
        "healed_at": healed_at,
        "ended_at": ended_at,
        "states": states,
    }


if __name__ == "__main__":
    main()

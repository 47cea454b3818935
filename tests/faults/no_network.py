"""A device in a network namespace of its own, with nothing but loopback; prints one JSON object.

    unshare --net [--map-root-user] python no_network.py ROOT FOLDER STICK DIGEST

ROOT has a bootstrap and the project's root of trust. The broker is on the namespace's loopback.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

from edgekit.client import Final, Requester
from edgekit.core import layout
from edgekit.core.config import AgentConfig, BrokerConfig, encode_agent_config
from tests import tools

PROMPT = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 16,
}


def verb(root: Path, trees: tuple[PurePath, ...], *arguments: str, stdin: bytes = b"") -> Any:
    """A verb of the device's own agent, in the environment that a push gives it."""
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "edgekit.agent", *arguments, "--root", str(root)],
        env=layout.environment(root, trees), input=stdin, capture_output=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout)


def story(root: Path, folder: Path, stick: str, digest: str) -> dict[str, object]:
    """Stage from the stick, activate, answer one prompt, stop."""
    bootstrap = layout.bootstrap_trees(root)
    said: dict[str, object] = {"interfaces": [name for _, name in socket.if_nameindex()]}
    with socket.socket() as outside:
        said["outside"] = outside.connect_ex(("192.0.2.1", 80))
    said["staged"] = verb(root, bootstrap, "stage", digest, "--from", stick)
    with tools.mosquitto(folder) as broker:
        config = AgentConfig("demo", BrokerConfig("127.0.0.1", broker.port), threads=2)
        data = encode_agent_config(config)
        said["active"] = verb(root, bootstrap, "activate", digest, "--config", "-", stdin=data)
        release = layout.release_trees(root / layout.CURRENT)
        try:
            with Requester(config.broker, "tester") as requester:
                last = list(requester.ask("demo", PROMPT))[-1]
            assert isinstance(last, Final), last
            said["answer"] = last.completion["choices"][0]["message"]["content"]
            said["state"] = verb(root, release, "state")
        finally:
            verb(root, release, "stop")
    return said


def main() -> None:
    """Bring the loopback up: the broker and the device are one machine."""
    subprocess.run([tools.find("ip"), "link", "set", "lo", "up"], check=True)
    root, folder, stick, digest = sys.argv[1:]
    print(json.dumps(story(Path(root), Path(folder), stick, digest)))


if __name__ == "__main__":
    main()

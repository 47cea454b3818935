"""A gateway as a process of its own, and the official SDK as its client."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai

from edgekit.gateway import keys
from tests import tools

START_SECONDS = 60.0
TODAY = datetime.date(2026, 1, 1)


@dataclass
class Gateway:
    """A running gateway; `keys` has one key for each requester."""

    url: str
    keys: dict[str, str]
    file: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def client(self, requester: str = "alice", retries: int = 0) -> openai.OpenAI:
        """The SDK as it is; without its own retries unless a test wants them."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.keys[requester], max_retries=retries, timeout=60
        )

    def rss_mb(self) -> float:
        """Resident memory in MB; 0 of a process that has ended."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kib = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
        return sum(kib) / 1024

    def under_way(self) -> int:
        """Answers under way, by its own metrics."""
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        line = next(x for x in lines if x.startswith("edgekit_gateway_answers_under_way "))
        return int(line.split()[1])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and wait for that; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def with_constants(constants: Mapping[str, float]) -> tuple[str, ...]:
    """A `program` in which constants, by their whole names, are these."""
    code = "import importlib as i\n"
    for name, value in constants.items():
        module, _, short = name.rpartition(".")
        code += f"setattr(i.import_module({module!r}), {short!r}, {value!r})\n"
    return "-c", f"{code}from edgekit.__main__ import main\nmain()"


@contextmanager
def gateway(
    folder: Path, broker_port: int, *options: str, requesters: tuple[str, ...] = ("alice", "bob"),
    port: int = 0, program: tuple[str, ...] = ("-m", "edgekit"),
) -> Iterator[Gateway]:  # fmt: skip
    """A gateway for the length of a block; `program` is how Python finds `edgekit`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "keys.json"
    made = {name: keys.add(file, name, TODAY) for name in requesters}
    log = (folder / "gateway.log").open("ab")
    broker = ("--broker", f"127.0.0.1:{broker_port}") if broker_port else ()
    process = subprocess.Popen(
        [
            *(sys.executable, *program, "gateway", "--json", "--port", str(port)),
            *("--keys", str(file), *broker, *options),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert process.stdout is not None
        text = ""
        while text.count("{") == 0 or text.count("}") < text.count("{"):
            line = process.stdout.readline()
            assert line, (folder / "gateway.log").read_text()
            text += line
        yield Gateway(json.loads(text)["url"], made, file, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        log.close()


def wait_for_model(client: openai.OpenAI, model: str) -> None:
    """Until the gateway lists a model: cards come after the connection."""
    tools.eventually(lambda: model in {each.id for each in client.models.list()}, what=model)

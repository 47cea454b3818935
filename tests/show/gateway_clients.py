"""Streams at once through a gateway by OpenAI's own SDK, from simulated devices behind a real
Mosquitto; then the broker, the gateway and half of the devices are killed under load, and clients
read nothing.

`tests/fault/test_gateway_load.py` runs it with fewer streams.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from edgekit.gateway import answer as http
from tests import tools
from tests.harness.gateway import Gateway, gateway, wait_for_model
from tests.show import Figures

STREAMS, DEVICES = 200, 25
WORDS, PAUSE_MS = 40, 100
MOST_MB = 150.0
DEADLINE_SECONDS = 30
SHORT_SECONDS = 12  # the deadline where devices are killed, whose prompts nobody answers any more
SPARE_SECONDS = 15.0  # on a machine that others use too


def count() -> tuple[Figures, bool]:
    """The figures, and whether all are as they must be."""
    with tempfile.TemporaryDirectory(prefix="edgekit-gateway-") as place:
        return measured(Path(place), STREAMS, DEVICES)


def measured(folder: Path, streams: int, devices: int) -> tuple[Figures, bool]:
    """All scenes with so many streams and devices."""
    whole = "".join(f"w{n} " for n in range(WORDS))
    site = folder / "mosquitto"
    site.mkdir(parents=True)
    told: dict[str, Any] = {}
    enough = ("--streams", str(2 * streams + 2))  # one requester may have half of them
    with tools.mosquitto(site) as broker, _fleet(broker.port, devices, told):
        with gateway(folder / "a", broker.port, *enough) as made:
            wait_for_model(made.client(), f"device:sim-{devices - 1}")
            began = time.monotonic()
            answers, most_mb = asyncio.run(_load(made, "calm", streams))
            seconds = time.monotonic() - began
            complete = sum(text == whole for text in answers)
            unread = _unread(made)
            after = asyncio.run(_load(made, "broker", streams, _restart(broker)))[0]
            killed_at = time.monotonic()
            broken = asyncio.run(_load(made, "kill", streams, made.process.kill))[0]
            hung = time.monotonic() - killed_at > DEADLINE_SECONDS + SPARE_SECONDS
        with gateway(folder / "b", broker.port, *enough) as second:
            wait_for_model(second.client(), f"device:sim-{devices - 1}")
            again = asyncio.run(_load(second, "kill", streams))[0]
            with _fleet(broker.port, devices, {}, "doomed") as doomed:
                wait_for_model(second.client(), f"device:doomed-{devices - 1}")
                killed_at = time.monotonic()
                left = asyncio.run(
                    _load(second, "device", streams, doomed.kill, deadline=SHORT_SECONDS)
                )[0]
                hung |= time.monotonic() - killed_at > SHORT_SECONDS + SPARE_SECONDS
    computed = [prompt for each in told["computed"].values() for prompt in each]
    cut = {f"device-{number}" for number, text in enumerate(left) if text != whole}
    twice = len(computed) - len(set(computed)) + len(cut & set(computed))
    figures: Figures = {
        "streams": streams,
        "complete": complete,
        "seconds": round(seconds, 1),
        "rss_mb": round(most_mb),
        "after_broker_kill": sum(text == whole for text in after),
        "cut_by_gateway_kill": sum(text != whole for text in broken),
        "again": sum(text == whole for text in again),
        "cut_by_device_kill": len(cut),
        "hung": int(hung),
        "twice": twice,
        "unread_ended": int(unread),
        "devices_used": sum(bool(each) for each in told["computed"].values()),
    }
    sound = (
        complete == streams
        and most_mb <= MOST_MB
        and all(text == whole for text in after)
        and all(text == whole for text in again)
        and cut
        and not any("Timeout" in text for text in left)
        and not hung
        and not twice
        and unread
        and figures["devices_used"] == devices
    )
    return figures, bool(sound)


def _restart(broker: tools.MosquittoBroker) -> Callable[[], None]:
    def restart() -> None:
        broker.stop(kill=True)
        broker.start()

    return restart


async def _load(
    made: Gateway,
    scene: str,
    streams: int,
    harm: Callable[[], object] | None = None,
    *,
    deadline: int = DEADLINE_SECONDS,
) -> tuple[list[str], float]:
    """Open streams at once; the texts, and the gateway's largest resident memory in MB.

    Args:
        scene: names the prompts: those of the same scene are asked again.
        harm: what is done once all streams are open.
        deadline: of each prompt, in seconds.
    """
    client = openai.AsyncOpenAI(
        base_url=f"{made.url}/v1",
        api_key=made.keys["alice"],
        max_retries=0,
        timeout=deadline + SPARE_SECONDS,
    )
    most = 0.0

    async def one(number: int) -> str:
        text = ""
        try:
            stream = await client.chat.completions.create(
                model="toy",
                messages=[{"role": "user", "content": f"say {WORDS} {PAUSE_MS}"}],
                stream=True,
                extra_headers={
                    "Idempotency-Key": f"{scene}-{number}",
                    "Edgekit-Deadline": str(deadline),
                },
            )
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        except Exception as error:
            text += f" [{type(error).__name__}]"
        return text

    tasks = [asyncio.create_task(one(number)) for number in range(streams)]
    await asyncio.sleep(2)
    if harm is not None:
        await asyncio.to_thread(harm)
    while not all(task.done() for task in tasks):
        if made.process.poll() is None:
            most = max(most, made.rss_mb())
        await asyncio.sleep(0.2)
    await client.close()
    return [task.result() for task in tasks], most


def _unread(made: Gateway) -> bool:
    """A client that asks for a long answer and reads nothing holds up nobody, and is let go."""
    body = json.dumps(
        {"model": "toy", "messages": [{"role": "user", "content": "say 20 10"}], "stream": True}
    ).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.connect(("127.0.0.1", made.port))
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {made.keys['alice']}\r\nContent-Length: {len(body)}\r\n\r\n"
            "".encode()
            + body
        )
        answer = made.client().chat.completions.create(
            model="toy", messages=[{"role": "user", "content": "Hi"}]
        )
        if answer.choices[0].message.content != "You said: Hi":
            return False
        until = time.monotonic() + http.UNREAD_SECONDS + 15
        while time.monotonic() < until:
            if made.under_way() == 0:
                return True
            time.sleep(0.2)
    return False


@contextmanager
def _fleet(
    port: int, devices: int, told: dict[str, Any], name: str = "sim"
) -> Iterator[subprocess.Popen[str]]:
    """Simulated devices in a process of their own; `told` is filled when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.simulated_device", str(port), str(devices), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
        if process.poll() is None:
            out, _ = process.communicate(timeout=60)
            told.update(json.loads(out))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)

"""`python -m tests.endurance.fuzz`: what anybody may send, 100,000 times.

Three kinds. `session`: messages as values, by hypothesis, into the session, with the promises of
every effect checked. `client`: bytes, guided by coverage (atheris), into the real MQTT client and
on into a session, as a hostile broker would send them. `broker`: mutated packets through a real
Mosquitto to a real device, which then has to answer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.rig import DEVICE, Rig
from edgekit.client import Final
from edgekit.core.protocol.wire import ProtocolError
from edgekit.errors import EdgekitError
from tests.endurance.fuzz_broker import Onlooker, attack
from tests.endurance.fuzz_session import live_through, stories

KINDS = ("session", "client", "broker")
STORIES = 300  # of one run of hypothesis, which remembers what it has tried
BROKER_SHARE = 20  # one packet in so many goes through a broker; it takes longer
CLIENT_SECONDS = 600.0
ROOM_SECONDS = 30.0  # until the attackers' last prompts are answered


def session(packets: int, seed: int) -> dict[str, Any]:
    """Messages as values."""
    seen: Counter[str] = Counter()
    before = rss_kib(os.getpid())

    @settings(
        max_examples=STORIES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(stories)
    def run(story: Any) -> None:
        live_through(story, seen)

    while seen["Received"] + seen["Controlled"] < packets:
        hypothesis.seed(seed + seen["runs"])(run)()
        seen["runs"] += 1
    done = seen["Received"] + seen["Controlled"]
    return {"packets": done, **seen, "rss_mib": mib(before, rss_kib(os.getpid()))}


def client(packets: int, seed: int) -> dict[str, Any]:
    """Bytes.

    Raises:
        EdgekitError: something broke; with the fuzzer's words.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-fuzz-") as name:
        report = Path(name) / "report.json"
        command = [sys.executable, "-m", "tests.endurance.fuzz_client", str(packets), str(seed)]
        # A process inherits the peak of the one that it replaces (getrusage(2), ru_maxrss), and the
        # fuzzer's bound counts it: a shell between them forks, and its child begins with its own.
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
        done = subprocess.run(
            [*command, str(report), name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_SECONDS,
            check=False,
        )
        if done.returncode or not report.exists():
            raise EdgekitError("the MQTT client broke", done.stderr[-3000:])
        told = json.loads(report.read_bytes())
    return {**told["seen"], "guided": told["guided"], "rss_mib": mib(*told["rss_kib"])}


def broker(packets: int, seed: int) -> dict[str, Any]:
    """Packets, through Mosquitto to a device.

    Raises:
        EdgekitError: the device does not answer any more, or answered a stranger.
    """
    with Rig(1) as rig:
        assert rig.device
        agent = int(json.loads(rig.root.ready_file.read_bytes())["pid"])
        before = rss_kib(agent)
        onlooker = Onlooker(rig.broker)
        seen = attack(rig.broker, DEVICE, packets, seed)
        answered(rig)
        onlooker.close()
        if onlooker.strangers:
            raise EdgekitError("a stranger was answered", ", ".join(onlooker.strangers[:5]))
        if int(json.loads(rig.root.ready_file.read_bytes())["pid"]) != agent:
            raise EdgekitError("the agent died", rig.root.log_file.read_text()[-3000:])
        return {**seen, **onlooker.seen, "rss_mib": mib(before, rss_kib(agent))}


def answered(rig: Rig) -> None:
    """The device answers a prompt, once it has room; raises EdgekitError otherwise."""
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    deadline = time.monotonic() + ROOM_SECONDS
    while True:
        try:
            *_, final = rig.requester.ask(DEVICE, body, expiry_seconds=60)
            break
        except ProtocolError as error:
            if error.code != "queue_full" or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    if not isinstance(final, Final) or "Paris" not in final.text:
        raise EdgekitError("the device does not answer as before", repr(final))


def rss_kib(pid: int) -> int:
    """The most memory that a process had so far (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def mib(before_kib: int, after_kib: int) -> str:
    """Two amounts of memory, for people."""
    return f"{before_kib / 1024:.0f} -> {after_kib / 1024:.0f}"


def main() -> None:
    """Run the kinds; exit code 1 when something broke."""
    parser = argparse.ArgumentParser("python -m tests.endurance.fuzz", description=__doc__)
    parser.add_argument(
        "--packets", type=int, default=100_000, help="of session and client, in all"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all three")
    arguments = parser.parse_args()
    shares = {"session": 2, "client": 2, "broker": BROKER_SHARE}
    failed = False
    for kind in arguments.kind or KINDS:
        began = time.monotonic()
        try:
            told = globals()[kind](arguments.packets // shares[kind], arguments.seed)
        except Exception as error:
            failed = True
            why = error.why if isinstance(error, EdgekitError) else ""
            told = {"EXCEPTION": f"{type(error).__name__}: {error}\n{why}\n"}
        facts = ", ".join(f"{value} {name}" for name, value in told.items())
        print(f"{kind}: {facts}, {time.monotonic() - began:.1f} seconds", flush=True)
    print("broken" if failed else "0 exceptions")
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""`python -m tests.endurance.chaos`: is anything lost while everything is killed?

A real Mosquitto without persistence, a real agent with its worker and a real model. All three get
SIGKILL at random, and the agent and its worker at every named step of a prompt's life; clients
follow the protocol's rules, and every answer is compared with the stored one.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.broker import Mosquitto
from benchmarks.models import find_model
from benchmarks.rig import COMMAND_SECONDS, run_edgekit
from edgekit.agent.release.root import Root
from edgekit.agent.serve.loop.journal import Journal
from edgekit.client import Accepted, Final, Requester
from edgekit.core.config import parse_agent_config
from edgekit.core.protocol import topics, wire
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt.threaded import MqttClient
from tests.endurance.chaos_device import END_SECONDS, Device, Tally
from tests.faults.dying_agent import STEPS

ANSWER_TOKENS = 8
PROMPT_SECONDS = 300  # of one prompt, over all its retries
RETRY_SECONDS = 0.5
KILL_SECONDS = (0.5, 9.0)  # between two random kills
BROKER_DOWN_SECONDS = 1.0  # at most


class Chaos:
    """One run.

    Args:
        root: ROOT of a device that has an active release and does not run.
        broker: its broker, not started yet.
        prompts: how many are sent.
        kills: how many there are at least, before it calms down.
        clients: how many prompts are on their way at once.
        within: an agent dies at the latest when it comes to its step for this time.
        seed: of everything that is chosen.
        progress: is told how far it is.
    """

    def __init__(
        self,
        root: Root,
        broker: Mosquitto,
        *,
        prompts: int,
        kills: int,
        clients: int,
        within: int,
        seed: int,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._progress = progress
        self.tally = Tally(prompts=prompts)
        self._choose = random.Random(seed)
        self._broker = broker
        self._root = root
        self._device_name = parse_agent_config(root.agent_config.read_bytes()).device
        self._device = Device(root, random.Random(seed + 1), within)
        self._numbers = iter(range(prompts))
        self._kills = kills
        self._clients = clients
        self._lock = threading.Lock()
        self._done = 0

    def run(self) -> Tally:
        """Send, kill, ask again, compare."""
        began = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._broker.stop)
            self._broker.start()
            observer = MqttClient(
                self._broker.config,
                "chaos-observer",
                subscriptions=[(f"{topics.PREFIX}/res/#", 1)],
                on_message=self._observe,
            )
            observer.connect()
            stack.callback(observer.close)
            stack.callback(self._device.end)
            self._device.start()
            threads = [
                threading.Thread(target=self._client, args=(number,), daemon=True)
                for number in range(self._clients)
            ]
            for thread in threads:
                thread.start()
            self._kill_at_random(threads)
            for thread in threads:
                thread.join(PROMPT_SECONDS + END_SECONDS)
                if thread.is_alive():
                    self.tally.problems.append("a client did not end")
        self.tally.seconds = time.monotonic() - began
        self.tally.steps = self._device.steps()
        self._compare()
        return self.tally

    # --- killing ------------------------------------------------------------------------------
    def _kill_at_random(self, clients: list[threading.Thread]) -> None:
        while any(thread.is_alive() for thread in clients):
            self.tally.steps = self._device.steps()
            if self.tally.killed >= self._kills and self._done >= 0.9 * self.tally.prompts:
                break  # calm enough for the last ones to end
            time.sleep(self._choose.uniform(*KILL_SECONDS))
            self._progress(
                f"{self._done} of {self.tally.prompts} prompts, {self.tally.killed} kills"
            )
            what = self._choose.choice(("agent", "worker", "worker", "broker"))
            if what == "broker":
                self._broker.stop(kill=True)
                time.sleep(self._choose.uniform(0, BROKER_DOWN_SECONDS))
                self._broker.start()
                self.tally.kills[what] += 1
            elif self._device.kill(what):
                self.tally.kills[what] += 1
        self._device.calm()

    # --- asking -------------------------------------------------------------------------------
    def _client(self, number: int) -> None:
        with self._retrying(lambda: Requester(self._broker.config, f"client-{number}")) as me:
            while True:
                with self._lock:
                    prompt = next(self._numbers, None)
                if prompt is None:
                    return
                try:
                    self._one(me, f"{number}-{prompt}-{uuid.uuid4().hex[:6]}")
                except Exception as error:
                    self.tally.problems.append(f"prompt {prompt}: {error!r}")
                with self._lock:
                    self._done += 1

    def _one(self, me: Requester, prompt_id: str) -> None:
        body = {
            "messages": [{"role": "user", "content": f"Say something about number {prompt_id}."}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 1.5,  # two answers of the model are hardly ever alike
        }
        until = time.monotonic() + PROMPT_SECONDS
        first = self._outcome(me, body, prompt_id, until)
        with self._lock:
            if isinstance(first, Final):
                self.tally.finals += 1
            else:
                self.tally.errors[first.code] += 1
        again = self._outcome(me, body, prompt_id, until)  # a duplicate gets the stored one
        if _text(again) != _text(first):
            self.tally.problems.append(f"{prompt_id}: {_text(first)!r}, then {_text(again)!r}")
        with self._lock:
            self.tally.stored += 1

    def _outcome(
        self, me: Requester, body: dict[str, object], prompt_id: str, until: float
    ) -> Final | wire.ProtocolError:
        while True:
            left = until - time.monotonic()
            if left < 1:
                raise EdgekitError(f"{prompt_id} has no outcome after {PROMPT_SECONDS} s")
            try:
                for reply in me.ask(
                    self._device_name, body, prompt_id=prompt_id, expiry_seconds=int(left)
                ):
                    if isinstance(reply, Accepted):
                        self.tally.accepted.add(prompt_id)
                    if isinstance(reply, Final):
                        return reply
            except UnreachableError:
                pass
            except wire.ProtocolError as error:
                if error.code not in ("queue_full", "no_storage", "draining"):
                    return error
            with self._lock:
                self.tally.retries += 1
            time.sleep(RETRY_SECONDS)

    def _retrying(self, connect: Callable[[], Requester]) -> Requester:
        until = time.monotonic() + END_SECONDS
        while True:
            try:
                return connect()
            except EdgekitError:
                if time.monotonic() > until:
                    raise
                time.sleep(RETRY_SECONDS)

    # --- comparing ----------------------------------------------------------------------------
    def _observe(self, message: wire.Inbound) -> None:
        kind = message.property("ek-kind")
        prompt_id = message.property("ek-id")
        with self._lock:
            if kind == "accepted":
                self.tally.accepted.add(prompt_id)
            stored = kind == "final" or (kind == "error" and _stored_error(message.payload))
            if stored:
                self.tally.said.setdefault(prompt_id, set()).add(message.payload)

    def _compare(self) -> None:
        problems = self.tally.problems
        for prompt_id, payloads in self.tally.said.items():
            if len(payloads) > 1:
                problems.append(f"{prompt_id} was answered with {len(payloads)} texts")
        journal = Journal(self._root.journal)
        rows = journal.load()
        journal.close()
        for row in rows:
            if row.outcome is None:
                problems.append(f"{row.key} was accepted and has no outcome")
            else:
                payloads = self.tally.said.get(row.key.partition("/")[2], set())
                if payloads - {row.outcome.payload}:
                    problems.append(f"{row.key} was answered with another text than the stored one")
        never = [step for step in STEPS if not self.tally.steps[step]]
        if self.tally.killed < self._kills or (never and self._kills >= len(STEPS)):
            problems.append(f"{self.tally.killed} kills, none at: {', '.join(never) or '-'}")
        answered = self.tally.finals + sum(self.tally.errors.values())
        if answered != self.tally.prompts:
            problems.append(f"{self.tally.prompts - answered} prompts have no outcome")
        missing = (
            self.tally.accepted
            - self.tally.said.keys()
            - {row.key.partition("/")[2] for row in rows if row.outcome is not None}
        )
        if missing:
            problems.append(f"{len(missing)} were accepted and never answered: {sorted(missing)}")


def _text(outcome: Final | wire.ProtocolError) -> str:
    return outcome.text if isinstance(outcome, Final) else outcome.code


def _stored_error(payload: bytes) -> bool:
    """Whether an error is a prompt's outcome, and not the refusal of an attempt."""
    code = msgspec.json.decode(payload)["error"]["code"]
    return code not in ("queue_full", "no_storage", "draining", "id_conflict")


def main() -> None:
    """Run it on a device in a folder of its own; exit code 1 when there was a problem."""
    parser = argparse.ArgumentParser("python -m tests.endurance.chaos", description=__doc__)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100, help="at least so many; default: 100")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--within",
        type=int,
        default=16,
        metavar="N",
        help="an agent reaches its step at most N times",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="smollm2", metavar="smollm2|DIR")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # that connections are lost is what is wanted
    with tempfile.TemporaryDirectory(prefix="edgekit-chaos-") as name:
        folder = Path(name)
        broker = Mosquitto(folder)
        project = folder / "project"
        project.mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEKIT_")}

        def edgekit(*command: str) -> None:
            run_edgekit(command, project, environment, COMMAND_SECONDS)

        broker.start()
        edgekit("init", ".", "--port", str(broker.port))
        model = str(find_model(arguments.model))
        edgekit("pack", model, "--name", "chaos", "--context", "512", "--soak", "0")
        edgekit("push", "demo")
        edgekit("stop", "demo")
        broker.stop()
        chaos = Chaos(
            Root(project / ".edgekit" / "devices" / "demo"),
            broker,
            prompts=arguments.prompts,
            kills=arguments.kills,
            clients=arguments.clients,
            within=arguments.within,
            seed=arguments.seed,
            progress=lambda text: print(text, file=sys.stderr, flush=True),
        )
        tally = chaos.run()
    print("\n".join(tally.lines()))
    sys.exit(bool(tally.problems))


if __name__ == "__main__":
    main()

"""A device that speaks the protocol and has no model: what a prompt says decides what it does.

`tests/contract/test_gateway.py` runs on it and on a real device. The last message of a prompt is

- `say N [MS]`: N words, one after each MS milliseconds, `lose 2` in front of it without delta 2;
- `refuse CODE`: an error in the place of `accepted`; `fail CODE`: an error after it;
- `silence`: nothing at all; `accept`: `accepted`, and then nothing until a `query` or `cancel`;
- `tools`: a call of a tool; anything else: `You said: …`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgekit.core.chat.completion import Usage, completion
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient

WAIT_SECONDS = 10.0


@dataclass
class Prompt:
    """What the device knows of a prompt."""

    address: wire.ReplyTo
    body: dict[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)
    outcome: tuple[str, bytes, int] | None = None
    sent: int = 0
    shown: str = ""


class SimulatedDevice:
    """Connected and announced; `close` takes both back.

    Attributes:
        prompts: by `ek-id`, with what became of each; of several requesters' the latest.
        computed: the ids that it began to answer, each time.
        queries: the ids that it was asked about.
    """

    def __init__(
        self, port: int, name: str, *, model: str = "toy", pools: tuple[str, ...] = (),
        slots: int = 4, broker: BrokerConfig | None = None, **card: Any,
    ) -> None:  # fmt: skip
        self.name, self.model = name, model
        self.prompts: dict[str, Prompt] = {}
        self.computed: list[str] = []
        self.queries: list[str] = []
        self.requesters: set[str] = set()
        self._known: dict[tuple[str, str], Prompt] = {}  # by requester and `ek-id`
        self.answer = ""  # to whatever is not one of these commands; else what was said
        self._lock = threading.Lock()
        self.mqtt = MqttClient(
            broker or BrokerConfig("127.0.0.1", port),
            f"sim-{name}-{uuid.uuid4().hex[:6]}",
            subscriptions=[
                (topics.request_topic(name, "+"), 1), (topics.control_topic(name, "+"), 0)
            ],
            on_message=self._heard,
            on_connection=self._announce,
            will=wire.Outbound(topics.status_topic(name), b'{"state":"lost"}', retain=True),
        )  # fmt: skip
        told = wire.Card(
            device=name, release="sha256:" + "0" * 64, model=model, version="1",
            context_length=1024, max_answer_tokens=512, queue_limit=8, agent="sim", pools=pools,
            slots=slots, **card,
        )  # fmt: skip
        self._told = {topics.card_topic(name): msgspec.json.encode(told)}
        self.mqtt.connect()
        self._retain(*next(iter(self._told.items())))
        self.say_state("ready")

    def say_state(self, state: str, **more: Any) -> None:
        """Publish a status."""
        self._retain(topics.status_topic(self.name), json.dumps({"state": state, **more}).encode())

    def close(self) -> None:
        """Announce nothing any more, and disconnect."""
        self._retain(topics.card_topic(self.name), b"")
        self._retain(topics.status_topic(self.name), b"")
        self.mqtt.close()

    def vanish(self) -> None:
        """Disconnect without a word: the broker keeps what it was told."""
        self.mqtt.close()

    def _announce(self, connected: bool) -> None:
        """Again after each connection: a broker may have forgotten it."""
        for topic, payload in self._told.items() if connected else ():
            self.mqtt.publish(wire.Outbound(topic, payload, retain=True))

    def _retain(self, topic: str, payload: bytes) -> None:
        self._told[topic] = payload
        self.mqtt.publish(wire.Outbound(topic, payload, retain=True)).result(WAIT_SECONDS)

    def _heard(self, message: wire.Inbound) -> None:
        requester = topics.requester_of(message.topic)
        self.requesters.add(requester)
        if topics.is_control(message.topic):
            self._control(message)
            return
        address = wire.address_of(message, self.name)
        assert address is not None
        with self._lock:
            known = self._known.get((requester, address.prompt_id))
            if known is None:
                known = Prompt(address, json.loads(message.payload))
                self.prompts[address.prompt_id] = known
                self._known[requester, address.prompt_id] = known
                threading.Thread(target=self._run, args=[known], daemon=True).start()
                return
        known.address = address
        if known.outcome:
            self._send(known, *known.outcome)
        else:
            self._send(known, "accepted", b'{"position":0}')

    def _control(self, message: wire.Inbound) -> None:
        control = wire.parse_control(message.payload)
        assert control is not None
        known = self._known.get((topics.requester_of(message.topic), control.id))
        if control.kind == "cancel":
            if known:
                known.cancelled.set()
            return
        self.queries.append(control.id)
        address = wire.control_address_of(message, control, self.name)
        assert address is not None
        if known is None:
            self.mqtt.publish(
                address.message("state", b'{"state":"unknown"}', seq=0, expiry_seconds=60)
            )
        else:
            known.address = address
            self._send(known, *(known.outcome or ("state", b'{"state":"running"}', 200)))

    def _send(self, prompt: Prompt, kind: str, payload: bytes, status: int = 200) -> None:
        self.mqtt.publish(
            prompt.address.message(kind, payload, seq=prompt.sent, expiry_seconds=60, status=status)
        )
        prompt.sent += 1

    def _end(self, prompt: Prompt, kind: str, payload: bytes, status: int = 200) -> None:
        prompt.outcome = kind, payload, status
        self._send(prompt, kind, payload, status)

    def _run(self, prompt: Prompt) -> None:
        said = prompt.body["messages"][-1]["content"]
        words = said.split() if isinstance(said, str) else ["picture"]
        if prompt.body.get("model", self.model) != self.model:
            words = ["refuse", "model_not_found"]
        if words[0] == "silence":
            return
        if words[0] in ("refuse", "fail"):
            if words[0] == "fail":
                self._send(prompt, "accepted", b'{"position":0}')
            error = wire.ProtocolError(words[1], f"{words[0]} as asked", "", 40)
            self._end(prompt, "error", error.encode(), error.status)
            return
        self.computed.append(prompt.address.prompt_id)
        self._send(prompt, "accepted", b'{"position":0}')
        if words[0] == "accept":
            prompt.cancelled.wait()
        lost = int(words[1]) if words[0] == "lose" else -1
        count, pause = 0, 0.0
        if "say" in words:
            count, *more = (int(word) for word in words[words.index("say") + 1 :])
            pause = (more or [0])[0] / 1000
        pieces = [f"w{n} " for n in range(count)] if "say" in words else ["You said: ", str(said)]
        if self.answer and "say" not in words:
            pieces = [word + " " for word in self.answer.split(" ")]
            count, pause = len(pieces), 0.02
        ended = "stop"
        for n, piece in enumerate(pieces):
            if prompt.cancelled.wait(pause) if pause else prompt.cancelled.is_set():
                ended = "cancelled"
                break
            prompt.shown += piece
            if prompt.body.get("stream") and n != lost and words[0] != "tools":
                delta = {"seq": n, "choices": [{"index": 0, "delta": {"content": piece}}]}
                self._send(prompt, "delta", json.dumps(delta).encode())
        told = json.loads(
            completion(
                prompt_id=prompt.address.prompt_id, model=self.model, created=int(time.time()),
                text=prompt.shown, finish_reason=ended,  # type: ignore[arg-type]  # one of them
                usage=Usage(3, count, 3 + count), timings=None, deltas=len(pieces),
            )
        )  # fmt: skip
        if words[0] == "tools":
            call = {"id": "call_1", "type": "function",
                    "function": {"name": "look", "arguments": '{"at":"sky"}'}}  # fmt: skip
            told["choices"][0]["message"] = {
                "role": "assistant", "content": None, "tool_calls": [call],
            }  # fmt: skip
            told["choices"][0]["finish_reason"] = "tool_calls"
        self._end(prompt, "final", json.dumps(told).encode())


def main() -> None:
    """`… PORT COUNT [NAME]`: devices NAME-0 and so on, until standard input ends."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    name = sys.argv[3] if len(sys.argv) > 3 else "sim"
    made = [SimulatedDevice(port, f"{name}-{n}", slots=64) for n in range(count)]
    print("ready", flush=True)
    sys.stdin.read()
    told = {each.name: each.computed for each in made}
    cancelled = sum(p.cancelled.is_set() for each in made for p in each.prompts.values())
    for each in made:
        each.close()
    print(json.dumps({"computed": told, "cancelled": cancelled}), flush=True)


if __name__ == "__main__":
    main()
